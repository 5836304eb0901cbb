"""The checks of 11_from_scratch: the file's own pieces are right, and each usual change of them gets its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from verdicts import Answers, cases, judge

from fedrevive_notebooks import from_scratch as scratch
from fedrevive_notebooks.lessons import from_scratch_checks as lesson

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "11_from_scratch.ipynb"


def edited(name: str, *changes: tuple[str, str]) -> Callable[..., Any]:
    """The function `name` of the file with some words of its source replaced, each of which it has once."""
    source = inspect.getsource(getattr(scratch, name))
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    names = dict(vars(scratch))
    exec(source, names)
    return names[name]  # type: ignore[no-any-return]


TIMELINE = Answers(
    lesson.check_timeline,
    "All 200 arrivals",
    [scratch.timeline, lambda num_arrivals, seed: np.array(scratch.timeline(num_arrivals, seed))],
    {
        "free.pop(position) moves all": edited(
            "timeline",
            ("            free[position], free[-1] = free[-1], free[position]\n", ""),
            ("client = free.pop()", "client = free.pop(position)"),
        ),
        "is chosen again": edited(
            "timeline",
            ("            free[position], free[-1] = free[-1], free[position]\n", ""),
            ("client = free.pop()", "client = free[position]"),
        ),
        "sort jobs by how long": edited("timeline", ("now + lasts(client)", "lasts(client)")),
        "Who is done first": edited("timeline", ("(now + lasts(client), len", "(lasts(client) * 0 + len(jobs), len")),
        "counts jobs": edited("timeline", ("(client, len(arrivals))", "(client, len(jobs))")),
        "one too large": edited("timeline", ("(client, len(arrivals))", "(client, len(arrivals) + 1)")),
        "nothing would be stale": edited("timeline", ("(job, *jobs[job])", "(job, jobs[job][0], len(arrivals))")),
        "is the staleness": edited(
            "timeline", ("(job, *jobs[job])", "(job, jobs[job][0], len(arrivals) - jobs[job][1])")
        ),
        "The order is": edited("timeline", ("(job, *jobs[job])", "(jobs[job][0], job, jobs[job][1])")),
        "list index out of range": edited("timeline", ("        free.append(jobs[job][0])\n", "")),
        "has shape (200, 2)": edited("timeline", ("(job, *jobs[job])", "jobs[job]")),
        "has shape (201, 3)": edited("timeline", ("< num_arrivals", "<= num_arrivals")),
        "Arrival number 0 should be": edited("timeline", ("stream(seed,", "stream(seed + 1,")),
    },
)

LOCAL_TRAINING = Answers(
    lesson.check_local_training,
    "A client starts from what it downloaded",
    [
        scratch.local_training,
        edited(
            "local_training",
            ("copy.deepcopy(model.state_dict())", "{n: t.clone() for n, t in model.state_dict().items()}"),
            (
                "F.cross_entropy(model(images[batch]), labels[batch])",
                "nn.CrossEntropyLoss()(model(images[batch]), labels[batch])",
            ),
        ),
    ],
    {
        "from what the last client left": edited(
            "local_training", ("model.train().load_state_dict(start)", "model.train()")
        ),
        "evaluation mode": edited("local_training", ("model.train()", "model.eval()")),
        "gradients of all steps add up": edited("local_training", ("        optimiser.zero_grad()\n", "")),
        "plain gradient descent": edited("local_training", ("optim.Adam", "optim.SGD")),
        "use CLIENT_LR": edited("local_training", (", lr=CLIENT_LR", "")),
        "This is the update": edited(
            "local_training",
            ("copy.deepcopy(model.state_dict())", "{n: t - start[n] for n, t in model.state_dict().items()}"),
        ),
        "one pass through the shard": edited("local_training", ("range(STEPS)", "range(1)")),
        "STEPS whole passes": edited("local_training", ("batches[:STEPS]", "batches")),
        "the same order": edited(
            "local_training",
            ("    batches = [", "    order = rng.permutation(shard)\n    batches = ["),
            ("np.split(rng.permutation(shard), [BATCH])", "np.split(order, [BATCH])"),
        ),
        "leave out the last 28": edited("local_training", ("batches[:STEPS]", "batches[: 2 * STEPS : 2]")),
        "not shuffled": edited("local_training", ("rng.permutation(shard)", "shard")),
        "Nothing is trained": edited(
            "local_training", ("        optimiser.step()\n", ""), ("model.train()", "model.eval()")
        ),
        "the model's own tensors": edited(
            "local_training", ("copy.deepcopy(model.state_dict())", "model.state_dict()")
        ),
        "this is a float": edited("local_training", ("copy.deepcopy(model.state_dict())", "loss.item()")),
        "differs from the package's": edited("local_training", ("optim.Adam", "optim.RMSprop")),
    },
)

BETA = Answers(
    lesson.check_beta,
    "At staleness 75 half",
    [scratch.beta, lambda tau: 1.0 if tau >= 150 else np.sin(np.pi * tau / 300) ** 2],
    {
        "turns back": edited("beta", ("min(staleness, 2 * S_MAX)", "staleness")),
        "reaches 1 at S_MAX": edited(
            "beta", ("min(staleness, 2 * S_MAX) / (2 * S_MAX)", "min(staleness, S_MAX) / S_MAX")
        ),
        "stops at S_MAX": edited("beta", ("min(staleness, 2 * S_MAX)", "min(staleness, S_MAX)")),
        "jumps to 1": lambda tau: 1 if tau >= 75 else scratch.beta(tau),
        "what the client keeps": edited("beta", ("(1 - math", "(1 + math")),
        "half in front": lambda tau: 2 * scratch.beta(tau),
        "straight line": lambda tau: min(1, tau / 150),
        "radians, not degrees": lambda tau: 1 if tau >= 150 else (1 - np.cos(np.radians(np.pi * tau / 150))) / 2,
        "not the sine": lambda tau: 1 if tau >= 150 else (1 - np.sin(np.pi * tau / 150)) / 2,
        "your rule is 0": lambda tau: 0 if tau > 150 else scratch.beta(tau),
        "beta(0) should be 0; yours is 0.3": lambda tau: 0.3,
        "instead of one number": lambda tau: [0.1, 0.2],
    },
)

MADE = scratch.new_generator(0)
NEW_GENERATOR = Answers(
    lesson.check_new_generator,
    "72,545 parameters",
    [scratch.new_generator, lambda seed: torch.nn.Sequential(scratch.new_generator(seed))],
    {
        "sigmoid at the end is missing": edited("new_generator", (", nn.Sigmoid()", "")),
        "from -1 to 1": edited("new_generator", ("nn.Sigmoid()", "nn.Tanh()")),
        "the slope is 0.2": lambda seed: _with(seed, "LeakyReLU", torch.nn.LeakyReLU()),
        "You used ReLU": lambda seed: _with(seed, "LeakyReLU", torch.nn.ReLU()),
        "activations between": lambda seed: _with(seed, "LeakyReLU", torch.nn.Identity()),
        "enlarged in another way": lambda seed: _with(
            seed, "Upsample", torch.nn.Upsample(scale_factor=2, mode="bilinear")
        ),
        "of another seed": lambda seed: scratch.new_generator(5),
        "have the index 1": edited("new_generator", ('"initialisation", 1', '"initialisation", 0')),
        "have no bias": edited(
            "new_generator", ("nn.Conv2d(wide, wide, 3, padding=1, bias=False)", "nn.Conv2d(wide, wide, 3, padding=1)")
        ),
        "two different generators": edited(
            "new_generator", ('    torch.manual_seed(int(stream(seed, "initialisation", 1).integers(2**63)))\n', "")
        ),
        "parameters, the package's": edited("new_generator", ("2 * WIDTH", "WIDTH")),
        "the order of the layers": lambda seed: _with(
            seed, "Unflatten", torch.nn.Unflatten(1, (64, 2, 2)), extra=torch.nn.Dropout(0.1)
        ),
        "Return a module": lambda seed: [torch.nn.Linear(2, 2)],
        "make a new one in each call": lambda seed: MADE,
    },
)


def _with(seed: int, kind: str, module: torch.nn.Module, extra: torch.nn.Module | None = None) -> torch.nn.Module:
    """The generator with other modules in the place of those of a `kind`."""
    layers = [module if type(layer).__name__ == kind else layer for layer in scratch.new_generator(seed)]
    return torch.nn.Sequential(*layers, *([extra] if extra else []))


def synthesis(*changes: tuple[str, str]) -> Callable[..., Any]:
    return edited("synthesis_losses", *changes)


SYNTHESIS_LOSSES = Answers(
    lesson.check_synthesis_losses,
    "Three losses, from models alone",
    [
        scratch.synthesis_losses,
        synthesis(
            (
                'label + (w * F.cross_entropy(logits, y, reduction="none")).sum()',
                "label - (w * logits.log_softmax(1)[range(len(y)), y]).sum()",
            )
        ),
    ],
    {
        "biased variance": synthesis(
            (
                "            mean, var = model.get_submodule(name).seen\n",
                "            mean, var = model.get_submodule(name).seen\n            n = 1536 if name == '1' else 384\n"
                "            var = var * n / (n - 1)\n",
            ),
        ),
        "norms, not their squares": synthesis(
            ('running_mean"]).norm()', 'running_mean"]).norm() ** 2'),
            ('running_var"]).norm()', 'running_var"]).norm() ** 2'),
        ),
        "mean 0 and variance 1": synthesis(
            ('mean - teacher[f"{name}.running_mean"]', "mean"), ('var - teacher[f"{name}.running_var"]', "var - 1")
        ),
        "Every teacher counts fully": synthesis(
            ("zip(weights[:, y], teachers", "zip(torch.ones(len(weights), len(y)), teachers")
        ),
        "lacks its condition": synthesis(("w * agree * kl", "w * kl")),
        "condition of L_adv is reversed": synthesis(("==", "!=")),
        "sign of L_adv is wrong": synthesis(("adversarial - (w", "adversarial + (w")),
        "is turned round": synthesis(("kl(logits, of_student)", "kl(of_student, logits)")),
        "sums over samples": synthesis(("term / len(x)", "term")),
        "number of classes": synthesis(("term / len(x)", "term / C")),
        "in training mode": synthesis(("model.eval().", "model.")),
        "you return 3 and 3": synthesis(("[: 2 if student is None else 3]", "")),
        "no gradient": synthesis(("term / len(x)", "term.detach() / len(x)")),
        "L_hot should be": synthesis(("label + (w * F", "label + 2 * (w * F")),
    },
)


def reptile(*changes: tuple[str, str]) -> Callable[..., Any]:
    return edited("reptile", *changes)


def onto_the_copy(generator: Any, fast: Any, meta_optimiser: Any) -> None:
    generator.load_state_dict(fast.state_dict())


def mixed(generator: Any, fast: Any, meta_optimiser: Any) -> None:
    for slow, quick in zip(generator.parameters(), fast.parameters(), strict=True):
        slow.data += 0.1 * (quick.data - slow.data)


def the_wrong_one(generator: Any, fast: Any, meta_optimiser: Any) -> None:
    fast.load_state_dict(generator.state_dict())


def added(generator: Any, fast: Any, meta_optimiser: Any) -> None:
    for slow, quick in zip(generator.parameters(), fast.parameters(), strict=True):
        slow.grad = (0 if slow.grad is None else slow.grad) + slow.detach() - quick.detach()
    meta_optimiser.step()


REPTILE = Answers(
    lesson.check_reptile,
    "Where the fast copy went",
    [scratch.reptile, reptile(("slow.detach() - quick.detach()", "(slow - quick).data"))],
    {
        "moves away": reptile(("slow.detach() - quick.detach()", "quick.detach() - slow.detach()")),
        "Nothing moves": reptile(("    meta_optimiser.step()\n", "")),
        "jumps onto": onto_the_copy,
        "without the optimiser": mixed,
        "add up": added,
        "as the gradient: take": reptile(("slow.detach() - quick", "quick")),
        "last gradient": reptile(("slow.detach() - quick.detach()", "quick.grad")),
        "moves the fast copy": the_wrong_one,
        "not as far": reptile(("slow.detach() - quick.detach()", "(slow - quick).detach().sign()")),
        "takes (generator, fast": lambda generator: generator,
        "Give a function": 3,
    },
)


def distil(*changes: tuple[str, str]) -> Callable[..., Any]:
    return edited("distil", *changes)


STUDENT = "tensor.clone() for name, tensor in current"
DISTIL = Answers(
    lesson.check_distil,
    "The current model learned",
    [
        scratch.distil,
        distil(
            (
                "T**2 * kl(torch.cat(answers) / T, logits / T).mean()",
                "F.kl_div(logits.log_softmax(1), torch.cat(answers).softmax(1), reduction='batchmean')",
            )
        ),
    ],
    {
        "the student's new state; return": distil(("tensor.detach() - current[name]", "tensor.detach()")),
        "The sign is wrong": distil(("tensor.detach() - current[name]", "current[name] - tensor.detach()")),
        "is turned round": distil(("kl(torch.cat(answers) / T, logits / T)", "kl(logits / T, torch.cat(answers) / T)")),
        "plain gradient descent": distil(("optim.Adam", "optim.SGD")),
        "the clients' rate": distil(("DISTILLATION_LR", "CLIENT_LR")),
        "no weight decay": distil((", weight_decay=DECAY", "")),
        "gradients of all steps add up": distil(("        optimiser.zero_grad()\n", "")),
        "refuses one loss": distil(
            ("        if guard.accepts(loss.item()):\n    ", "        guard.accepts(loss.item())\n")
        ),
        "in training mode, so its": distil(
            ("functional_call(model, student", "functional_call(model.train(), student")
        ),
        "the same samples": distil(("x[m, step]", "x[m, 0]"), ("x[:, step]", "x[:, 0]")),
        "averaged the teachers' logits": distil(
            ("torch.cat(answers)", "torch.stack(answers).mean(0).repeat(len(answers), 1)")
        ),
        "mean square": distil(
            ("T**2 * kl(torch.cat(answers) / T, logits / T).mean()", "F.mse_loss(logits, torch.cat(answers))")
        ),
        "The student did not move": distil(("            optimiser.step()\n", "            pass\n")),
        "never asks the guard": distil(("if guard.accepts(loss.item()):", "if True:")),
        "changes `current` or a teacher": distil((STUDENT, "tensor for name, tensor in current")),
        "differs from the package's": distil(("optim.Adam", "optim.RMSprop")),
        "Return a state": distil(
            (
                "    return {name: tensor.detach() - current[name] for name, tensor in student.items()}",
                "    return loss",
            )
        ),
    },
)


def version(*changes: tuple[str, str]) -> Callable[..., Any]:
    return edited("new_version", *changes)


def in_place(current: Any, update: Any, distilled: Any, share: float, first: Any) -> Any:
    for name in current:
        current[name] += 0.1 * update[name]
    return current


BLEND = "(1 - share) * update[name] + share * distilled[name]"
NEW_VERSION = Answers(
    lesson.check_new_version,
    "The gap that lateness leaves",
    [
        scratch.new_version,
        version(
            (BLEND, "torch.lerp(update[name], distilled[name], share)"), ("first[name] for", "first[name].clone() for")
        ),
    ],
    {
        "wrong way round": version((BLEND, "share * update[name] + (1 - share) * distilled[name]")),
        "Nothing is taken": version((BLEND, "update[name] + share * distilled[name]")),
        "this is down-weighting": version((BLEND, "(1 - share) * update[name]")),
        "counts fully; its weight": version((BLEND, "(1 - share) * update[name] + distilled[name]")),
        "Without a distilled update": version(
            (
                "    new = {",
                "    else:\n        update = {name: (1 - share) * update[name] for name in update}\n    new = {",
            )
        ),
        "multiply by SERVER_LR": version(("SERVER_LR * ", "")),
        "server adds the update": version(("current[name] + SERVER", "current[name] - SERVER")),
        "move with the update": version((' | {name: first[name] for name in new if "running" in name}', "")),
        "of the current version": version(("{name: first[name]", "{name: current[name]")),
        "changes its arguments": in_place,
        "the new weight should be": version(("SERVER_LR", "2 * SERVER_LR")),
        "Return a state": lambda current, update, distilled, share, first: update["weight"],
    },
)

TABLES = (TIMELINE, LOCAL_TRAINING, BETA, NEW_GENERATOR, SYNTHESIS_LOSSES, REPTILE, DISTIL, NEW_VERSION)


@pytest.mark.parametrize(("table", "answer", "kind", "words"), cases(*TABLES))
def test_verdicts(table: Answers, answer: object, kind: str, words: str) -> None:
    judge(table, answer, kind, words)


def solutions() -> dict[str, str]:
    """The solution's code of each piece, without `if solve`."""
    found = {}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if "solution" in cell.metadata.get("tags", []):
            first, _, body = cell.source.partition("\n")
            assert first == "if solve:"
            code = inspect.cleandoc(body)
            found[code.split("(")[0].removeprefix("def ")] = code
    return found


def test_the_solutions_are_the_files_code() -> None:
    """Line by line, with the comments, but without the docstring."""
    assert list(solutions()) == list(lesson.PIECES)
    for name, code in solutions().items():
        function = getattr(scratch, name)
        source = inspect.getsource(function)
        quoted = '    """' + inspect.getsource(function).split('"""')[1] + '"""\n'
        assert code == source.replace(quoted, "").rstrip(), name


def test_right_pieces_make_the_packages_versions_and_a_wrong_one_does_not() -> None:
    pieces: dict[str, Any] = dict.fromkeys(lesson.PIECES)
    distances = lesson.apart(3, 1, pieces)
    assert max(distances) < 1e-4
    assert "0 of the 8 pieces are yours, the others" in lesson.in_words(distances, pieces)
    assert "All 3 versions" in lesson.in_words(distances, pieces)
    wrong = lesson.apart(3, 1, pieces | {"new_version": version(("SERVER_LR", "2 * SERVER_LR"))})
    assert "Up to version 0 they are the package's; at version 1" in lesson.in_words(wrong, pieces)
    assert len(lesson.plot_apart(wrong).axes[0].lines) == 2
