"""For 10_quiz: twelve questions with four options each, and what each option says about the one who chose it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedrevive_core import ConfigError
from fedrevive_notebooks.lessons.exercise import Verdict, check, right, wrong

LETTERS = "abcd"


@dataclass(frozen=True)
class Question:
    """A question; of every option its text, and what the verdict says to it. read: where the answer is found."""

    asks: str
    options: tuple[tuple[str, str], ...]
    right: str
    read: str


QUESTIONS = (
    Question(
        "A federation has $N = 150$ clients, $K = 80$ jobs in flight, and makes a version of every update. What is the "
        "mean staleness over a long run?",
        (
            ("149", "Clients that wait for work delay nobody: count the jobs in flight, not the clients."),
            ("80", "Nearly: a job does not miss the version that it makes itself."),
            ("79", "While a job runs, the other 79 jobs arrive once each on average, and each makes a version."),
            ("It depends on how long the jobs take.", "The spread does. The mean follows from Little's law alone."),
        ),
        "c",
        "01_staleness, section 3",
    ),
    Question(
        "One client in ten becomes 20 times slower. Nothing else changes. What happens to staleness over a long run?",
        (
            ("The mean rises.", "The slow updates are far staler, but rare, and all others become fresher."),
            ("The mean stays; the stalest updates become staler.", "The mean depends on K and B only, the tail does."),
            ("The mean falls.", "Most updates become fresher; the few of the stragglers make up for it."),
            ("Nothing at all.", "The mean stays, but look at the stalest updates."),
        ),
        "b",
        "01_staleness, section 5",
    ),
    Question(
        "There are $K = 12$ jobs in flight. With which buffer $B$ and refill size $O$ is no update ever stale?",
        (
            ("$B = 1$, $O = 1$", "Versions are made while others work: this has the largest staleness of the four."),
            ("$B = 12$, $O = 1$", "A version takes 12 updates, but clients start at any time in between."),
            ("$B = 1$, $O = 12$", "All start together, but the first to arrive makes a version while 11 still work."),
            ("$B = 12$, $O = 12$", "All start together, and the version waits for all: synchronous rounds."),
        ),
        "d",
        "01_staleness, section 4",
    ),
    Question(
        "On `lab-digits` the mean staleness is close to $s_{\\max}$, where $\\beta = 1/2$. Which share of all "
        "updates does down-weighting throw away?",
        (
            ("One half.", "This is beta of the mean. Take the mean of beta: staleness is spread widely and skewed."),
            ("Less than one half.", "Most updates are fresher than the mean, and beta of the latest stops at 1."),
            ("More than one half.", "Most updates are fresher than the mean, not staler."),
            ("None: every update is used.", "Every update is used, but only with the weight 1 - beta."),
        ),
        "b",
        "02_why_stale_hurts, section 4",
    ),
    Question(
        "An update has one number. The client's is 4, the distilled one is -2, and $\\beta = 1/4$. Which update does "
        "FedRevive apply (before the server's step $\\eta$)?",
        (
            ("-0.5", "The weights are the wrong way round: beta is the share that is replaced."),
            ("3", "This is down-weighting: the gap is left empty."),
            ("3.5", "The client's update keeps its full weight here; a share beta is taken from it."),
            ("2.5", "Three quarters of 4, and one quarter of -2."),
        ),
        "d",
        "05_fedrevive, section 1",
    ),
    Question(
        "Somebody sets $\\beta(\\tau) = 0$ for every staleness. Which method does FedRevive become?",
        (
            ("Asynchronous learning: every update counts fully.", "Nothing is replaced, so nothing is distilled."),
            ("AFL-DW.", "AFL-DW takes the share beta away and leaves the gap empty. Here nothing is taken."),
            ("Synchronous FedAvg.", "Nobody waits for anybody: beta changes weights, not the arrivals."),
            ("Distillation alone.", "That is beta = 1: everything is replaced."),
        ),
        "a",
        "05_fedrevive, section 1",
    ),
    Question(
        "Two teachers. The first has 60% of its samples in class 3, the second 20%. With which weight does the first "
        "teacher speak about class 3?",
        (
            ("0.6", "This is its share of class 3. The weights of a class must sum to 1 over the teachers."),
            ("0.5", "Then it would not matter what a teacher has seen."),
            ("0.75", "0.6 / (0.6 + 0.2): the weights of each class sum to 1 over the teachers."),
            ("1", "The other teacher has seen class 3, too: it has a say, a smaller one."),
        ),
        "c",
        "04_distillation, section 2",
    ),
    Question(
        "For which synthetic image is $L_\\text{adv}$ lowest, so that it is rewarded?",
        (
            ("Teacher and student name different classes.", "This counts nothing: such an image may mean nothing."),
            (
                "Both name the same class, but with different probabilities.",
                "The teacher knows something about this class that the student does not know yet.",
            ),
            ("Both give the same probabilities.", "The divergence is 0 then: the student has nothing to learn."),
            ("It looks like the client's training images.", "This is what L_feat asks for."),
        ),
        "b",
        "03_synthesis, section 3",
    ),
    Question(
        "In the records of the course FedRevive with eight teachers is clearly ahead of down-weighting at the same "
        "server rate. How much of this lead is left with *one* teacher?",
        (
            ("All of it: the client's own model is the best teacher.", "It repeats what its update says already."),
            ("About half.", "One would expect it to fall slowly with the number of teachers. Look at the table."),
            ("About one eighth.", "Teachers do not add up like this: one knows only its own classes."),
            ("Nothing.", "One teacher says what its update says already. The gain comes from the other clients."),
        ),
        "d",
        "06_ablations, section 5",
    ),
    Question(
        "With seeds 0, 1 and 2, A is ahead of B by 1.0, 2.0 and 1.5 points. The accuracies of each method differ by 10 "
        "points between the seeds. ($t_{2,\\,0.975} = 4.3$.) Is A clearly better?",
        (
            ("No: the two bands overlap.", "Seeds move both methods together. Compare within a seed."),
            ("No: three seeds are never enough.", "They are enough if the leads within seeds differ little, as here."),
            ("Yes: A is ahead in all three.", "The conclusion is right, the reason is not: by chance alone A is ahead "
             "in all three, or B is, in one case of four."),
            ("Yes: the interval of the paired lead excludes zero.", "The lead is 1.5 points, its half width 1.2."),
        ),
        "d",
        "08_reproduce, section 7",
    ),
    Question(
        "You try 20 changes, and none of them has any effect. How many of the 20 intervals (95%) exclude zero on "
        "average?",
        (
            ("None.", "An interval of 95% misses the truth in one case of twenty."),
            ("One.", "20 times 5%. So say how many changes you tried."),
            ("0.05", "This is the rate for one interval. There are 20."),
            ("19", "19 is how many contain zero."),
        ),
        "b",
        "06_ablations, section 5",
    ),
    Question(
        "What must a server see for FedRevive that it need not see for FedBuff?",
        (
            ("Some of the clients' images.", "It has no images: it makes its own. DD-FedRevive needs real ones."),
            ("The class counts of each client.", "It estimates them from the model's answers to noise."),
            ("The model of each single client.", "FedBuff needs only the mean of its buffer, which can be secret."),
            ("Nothing more.", "FedBuff works with sums of updates. FedRevive asks each client's model by itself."),
        ),
        "c",
        "03_synthesis, section 7",
    ),
)  # fmt: skip


def markdown(number: int) -> str:
    """Return question `number`, from 1, with its options."""
    question = QUESTIONS[number - 1]
    listed = (f"- **{letter})** {text}" for letter, (text, _) in zip(LETTERS, question.options, strict=True))
    return "\n".join([f"**Question {number}.** {question.asks}", "", *listed])


def a_letter(answer: Any) -> str:
    """Read one of the letters a to d."""
    if not isinstance(answer, str):
        raise ConfigError(f'Answer with a letter in quotation marks, such as "a"; this is a {type(answer).__name__}')
    letter = answer.strip().lower().rstrip(").")
    if len(letter) > 1 and set(letter) <= set(LETTERS):
        raise ConfigError("These are several letters; one option is right")
    if letter not in tuple(LETTERS):
        raise ConfigError(f"There is no option {answer!r}; choose a, b, c or d")
    return letter


@check(a_letter)
def check_answer(answer: str, number: int) -> Verdict:
    """Judge the letter that answers question `number`."""
    question = QUESTIONS[number - 1]
    text = question.options[LETTERS.index(answer)][1]
    return right(text) if answer == question.right else wrong(f"{text} See {question.read}.")
