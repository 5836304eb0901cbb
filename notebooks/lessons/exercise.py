"""The verdict on an exercise: open, wrong with the likely mistake, or right with the reason."""

from __future__ import annotations

import dis
import html
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import CodeType, FunctionType
from typing import Any, Literal

import numpy as np
from IPython import get_ipython
from IPython.display import display

from fedrevive_core.errors import ConfigError

SIGNS = {"open": "&#9711; Not answered yet.", "wrong": "&#10007; Not yet.", "right": "&#10003; Right."}

NOT_FINITE = (
    "Usual causes: the logarithm of zero or of a negative number (F.kl_div takes log-probabilities first and then "
    "probabilities, never raw logits), 0 times infinity (use masked_fill or where, not a product), a division by 0, or "
    "the mean of nothing."
)
UNDEFINED = "Run the notebook's first code cell again, which imports it."
HINTS = {  # what Python, NumPy or PyTorch says: what it means here
    r"bitwise_xor|for \^": "`^` is no power in Python: write **.",
    r"bitwise_|unsupported operand type\(s\) for [&|]|bad operand type for unary ~|'invert'": (
        "`&`, `|` and `~` come before `<` and `>`: put each comparison in parentheses, (a < b) & (b < c)."
    ),
    r"truth value of an array|Boolean value of Tensor": (
        "`and`, `or`, `not`, `if`, `max` and a < b < c look at one value, not at an array. Write (a < b) & (b < c), "
        "with `|` for or and `~` for not, and np.where or torch.where for if."
    ),
    r"axis -?\d+ is out of bounds|Dimension out of range": (
        "An array has no such dimension. Dimensions are counted from 0, and -1 is the last one: print its .shape."
    ),
    "broadcast|must match the size|not aligned|cannot be multiplied|core dimension|inconsistent tensor|"
    "mismatch|does not match|Expected (target size|input batch_size)": (
        "Two shapes do not fit together: print both, with .shape. From the last dimension on, sizes must be equal or 1."
    ),
    r"name '(np|torch|F|nn|cos|pi|math|StatisticProbe)' is not defined": UNDEFINED,
    r"is not defined|referenced before assignment|not associated with a value": (
        "Your function uses a name that has no value: is it written as in the `def` line?"
    ),
    r"unexpected keyword argument '(axis|keepdims|dim|keepdim)'|invalid combination .* \(.*(axis|keepdims)=": (
        "NumPy has axis and keepdims, torch has dim and keepdim: use the functions of what your function gets."
    ),
    r"positional argument|unexpected keyword": "A function is called with arguments that it does not take.",
    r"math domain error": "This is the logarithm of 0, or a logarithm or root of a negative number.",
    r"only one element tensors|only length-1 arrays|only 0-dimensional": (
        "float() and the functions of math take one number: use those of np or torch for arrays."
    ),
    r"ndarray' object has no attribute": "This is a NumPy array: use the functions of np.",
    r"'Tensor' object has no attribute": "This is a tensor: use the functions of torch.",
    r"call numpy\(\) on Tensor": "NumPy cannot follow gradients: use the functions of torch.",
    r"leaf Variable": "Do not change an argument in place (x -= ..., x[...] = ...): make a new tensor.",
    r"must be Tensor, not|expected Tensor|invalid combination .*ndarray": (
        "A function of torch takes tensors: convert by torch.as_tensor."
    ),
    r"maximum recursion depth": "Your function calls itself without end: has it the name of a function that it needs?",
    r"float\(\) argument must be": "This is no number.",
    r"object is not callable": "Something that is no function is called, with ( ) after its name.",
}


@dataclass(frozen=True)
class Verdict:
    """The result of a check; the last line of a check cell shows it."""

    kind: Literal["open", "wrong", "right"]
    message: str

    def __repr__(self) -> str:
        return f"[{self.kind}] {self.message}"

    def _repr_html_(self) -> str:
        return f'<div class="verdict {self.kind}"><b>{SIGNS[self.kind]}</b> {html.escape(self.message)}</div>'


def wrong(message: str) -> Verdict:
    """Return the verdict "wrong"; `message` names the likely mistake and where to look, not the answer."""
    return Verdict("wrong", message)


def right(message: str) -> Verdict:
    """Return the verdict "right"; `message` says why, or what follows."""
    return Verdict("right", message)


class _Judged(Exception):
    """Ends a check early, with `verdict`."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.message)
        self.verdict = verdict


def _tell_which_cell(shell: Any, kind: type, error: NameError, trace: Any, tb_offset: int | None = None) -> None:
    """Show a NameError; where a check cell raised it, say that the exercise's cell was not run."""
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    while trace.tb_next:
        trace = trace.tb_next
    if any(name.startswith("check_") for name in trace.tb_frame.f_code.co_names):
        display(Verdict("open", f"'{error.name}' has no value: run the exercise's cell above first, then this one."))


if shell := get_ipython():
    shell.set_custom_exc((NameError,), _tell_which_cell)

Reader = Callable[[Any], Any]


def check(reader: Reader) -> Callable[[Callable[..., Verdict]], Callable[..., Verdict]]:
    """Decorate a check: a missing answer is open, `reader` makes of an answer what is judged, and errors are explained.

    reader: `a_number`, `a_whole_number`, `a_function`, or what `a_word` returns.
    """

    def decorate(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
        @wraps(judge)
        def judged(answer: Any, *given: Any, **named: Any) -> Verdict:
            if answer is None or answer is ...:
                return Verdict("open", "Replace None with your answer and run both cells again.")
            try:
                return judge(reader(answer), *given, **named)
            except _Judged as ended:
                return ended.verdict
            except Exception as error:  # a student's function may raise anything
                return wrong(f"Your answer could not be used. {explained(error)}")

        return judged

    return decorate


def explained(error: Exception) -> str:
    """Say what `error` means in plain words, where it is a usual one, and what Python says."""
    if isinstance(error, ConfigError):
        return f"{error}."
    said = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    hint = next((hint for pattern, hint in HINTS.items() if re.search(pattern, said)), "")
    return f"{hint} Python says: {said}".strip()


def a_number(answer: Any) -> float:
    """Read one real number, of Python, NumPy or PyTorch, or alone in an array."""
    if callable(answer):
        raise _Judged(wrong("This is a function; give a number. Are the parentheses of a call missing, as in .mean()?"))
    if isinstance(answer, str | bool | np.bool_):
        raise _Judged(wrong(f"Give a number without quotation marks, not {answer!r}."))
    if (count := int(np.size(_values(answer)))) != 1:
        raise _Judged(wrong(f"These are {count} values; give one number. Is a mean or a sum missing?"))
    value = float(_values(answer).reshape(()))
    if not math.isfinite(value):
        raise _Judged(wrong(f"Your answer is {value}: give a finite number. {NOT_FINITE}"))
    return value


def a_whole_number(answer: Any) -> int:
    """Read one whole number."""
    value = a_number(answer)
    if not value.is_integer():
        raise _Judged(wrong(f"Give a whole number, not {value:g}."))
    return int(value)


def a_word(*allowed: str) -> Reader:
    """Return the reader of one of the words that are `allowed`."""

    def read(answer: Any) -> str:
        said = answer.strip().lower() if isinstance(answer, str) else None
        if said not in allowed:
            choice = f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
            raise _Judged(wrong(f"Answer {choice}, with quotation marks."))
        return said

    return read


def a_function(answer: Any) -> Callable[..., Any]:
    """Read a function. Calls of it end the check if they do not fit its arguments, or if it returns nothing."""
    if not callable(answer):
        raise _Judged(wrong(f"Give a function: def name(...): ... return ...; this is a {type(answer).__name__}."))
    if not isinstance(answer, FunctionType):
        return answer  # type: ignore[no-any-return]

    def called(*given: Any) -> Any:
        try:
            inspect.signature(answer).bind(*given)
        except TypeError:
            asked = f"{len(given)} argument{'s' * (len(given) != 1)}"
            raise _Judged(
                wrong(f"Your function is called with {asked}: write its `def` line as the exercise has it.")
            ) from None
        result = answer(*given)
        if result is None or result is ...:
            raise _Judged(_NO_RETURN if _returns_a_value(answer.__code__) else _OPEN)
        return result

    return called


_OPEN = Verdict("open", "Your function returns None: write its `return`, and run both cells again.")
_NO_RETURN = wrong(
    "Your function has a `return`, but here it gave None. Is the `return` inside an `if` or a loop that ended "
    "without it? Or does it return what print() or a method such as .sort() gives, which is None?"
)


def _returns_a_value(code: CodeType) -> bool:
    """Tell whether a `return` in `code` returns something else than the constants None and ... ."""
    before = None
    for step in dis.get_instructions(code):
        if step.opname == "RETURN_CONST" and step.argval not in (None, ...):
            return True
        if step.opname == "RETURN_VALUE":
            nothing = before and before.opname == "LOAD_CONST" and _nothing(before.argval)
            if step.is_jump_target or not nothing:  # a jump brings the value of another branch
                return True
        before = step
    return False


def _nothing(value: Any) -> bool:
    return value is None or value is ...


def _values(result: Any) -> np.ndarray:
    """Return a number, array or tensor as an array of floats."""
    return np.asarray(result.detach() if hasattr(result, "detach") else result, dtype=float)


def one_number(result: Any) -> float:
    """Return what a student's function returned as one number; text or several numbers end the check."""
    if isinstance(result, str):
        raise _Judged(wrong(f"Your function returns the text {result!r}: return a number, not str() or an f-string."))
    values = _values(result)
    if values.size != 1:
        raise _Judged(
            wrong(f"Your function returns shape {values.shape} instead of one number: is a sum or mean missing?")
        )
    return float(values.reshape(()))


def diagnose(
    result: Any,
    expected: Any,
    mistakes: Mapping[str, Any],
    praise: str,
    *,
    tolerance: float = 1e-5,
    otherwise: str = "",
) -> Verdict:
    """Compare the result of an answer with the right value and with the values of usual mistakes (by message).

    result, expected and the mistakes' values are numbers or arrays; a list holds several values of one mistake. The
    nearest of them decides, if it is at most `tolerance` away (relative above 1). otherwise: the message if none is.
    """
    result, expected = _values(result), _values(expected)
    if result.shape != expected.shape:
        return wrong(f"Your answer has shape {result.shape}, not {expected.shape}.")
    if not np.isfinite(result).all():
        some = "There are NaNs or infinities in your result." if result.ndim else f"Your result is {result}."
        return wrong(f"{some} {NOT_FINITE}")

    def distance(value: Any) -> float:
        value = _values(value)
        return float(np.max(np.abs(result - value) / np.maximum(1, np.abs(value)), initial=0))

    verdicts = [(distance(expected), right(praise))]
    for message, values in mistakes.items():
        verdicts += [(distance(v), wrong(message)) for v in (values if isinstance(values, list) else [values])]
    nearest, verdict = min(verdicts, key=lambda pair: pair[0])  # the first of equals, so the right value
    if nearest <= tolerance:
        return verdict
    return wrong(otherwise or f"{_difference(result, expected)}; this check does not know this mistake.")


def elsewhere(
    verdict: Verdict, answer: Callable[..., Any], correct: Callable[..., Any], cases: Mapping[str, tuple[Any, ...]]
) -> Verdict:
    """Return `verdict`, but "wrong" if a right `answer` is not `correct` for other arguments: `cases`, by name."""
    if verdict.kind != "right":
        return verdict
    for name, given in cases.items():
        result, expected = _values(answer(*given)), _values(correct(*given))
        if result.shape != expected.shape or not np.allclose(result, expected, rtol=1e-4, atol=1e-5):
            return wrong(
                f"Right for one example, but not for {name}. Does your function use all its arguments, and no number "
                "or variable that holds for one example alone?"
            )
    return verdict


def with_gradient(verdict: Verdict, result: Any, expected: Any, trained: Mapping[str, Any]) -> Verdict:
    """Return `verdict`, but "wrong" if a right `result` does not pass the gradient of `expected` to what is `trained`.

    result, expected: a loss as it was answered, and as it should be, of the leaves in `trained` (by name).
    """
    if verdict.kind != "right":
        return verdict
    if not getattr(result, "requires_grad", False):
        return wrong(
            f"The value is right, but it has no gradient (it is a {type(result).__name__}), so nothing could be "
            "trained. Return the tensor itself: leave out .item(), float(), .numpy(), .detach() and torch.no_grad()."
        )
    found, wanted = _gradients(result, trained), _gradients(expected, trained)
    for name in trained:
        if not np.allclose(found[name], wanted[name], rtol=1e-3, atol=1e-5):
            return wrong(
                f"The value is right, but not its gradient by {name}: a part of the calculation is cut off from it "
                "(.detach(), .data, .item(), torch.tensor(...), NumPy), so training would go another way."
            )
    return verdict


def _gradients(loss: Any, trained: Mapping[str, Any]) -> dict[str, np.ndarray]:
    for leaf in trained.values():
        leaf.grad = None
    loss.sum().backward(retain_graph=True)
    return {name: _values(0 if leaf.grad is None else leaf.grad) for name, leaf in trained.items()}


def _difference(result: np.ndarray, expected: np.ndarray) -> str:
    """Say what is right and what was answered; of arrays with several dimensions, where they differ most."""
    if result.ndim > 1:
        place = np.unravel_index(np.argmax(np.abs(result - expected)), result.shape)
        where = f"[{', '.join(map(str, place))}]"
        return f"At {where} the right value is {expected[place]:.4g}, yours is {result[place]:.4g}"
    shown = [np.array2string(value, precision=4, threshold=6) for value in (expected, result)]
    return f"The right value is {shown[0]}, yours is {shown[1]}"
