"""What a program and its float model say to the same labelled images, and where they differ."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn, tensor

from ..data import ImageFolder, Preprocessing
from ..evaluation import Answers, divergence, predict_float, predict_program, require_labels
from ..progress import Progress, silent

TOP = 5


@dataclasses.dataclass(frozen=True)
class Change:
    """An image to which the program says something else than the float model.

    Attributes:
        index: Of the image in the folder.
        label: Its class.
        before: The float model's answer.
        after: The program's answer.
    """

    index: int
    label: int
    before: int
    after: int

    @property
    def kind(self) -> str:
        """What became of the answer."""
        if self.before == self.label:
            return "lost"
        return "won" if self.after == self.label else "wrong before and after"


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How often images of one class get the answer of another.

    Attributes:
        label: Their class.
        answer: The class that they get.
        before: How often the float model says so.
        after: How often the program says so.
    """

    label: int
    answer: int
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class Judgement:
    """Answers to the images of a folder with labels.

    Attributes:
        folder: The images and their labels.
        preprocessing: What the model sees of them.
        integer: The program's answers.
        reference: The float model's; None where it was not asked.
        class_names: In the order of the classes; none where they are not known.
    """

    folder: ImageFolder
    preprocessing: Preprocessing
    integer: Answers
    reference: Answers | None
    class_names: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        program: str | Path,
        folder: ImageFolder,
        preprocessing: Preprocessing,
        model: nn.Module | None = None,
        *,
        class_names: Sequence[str] = (),
        processes: int = 1,
        progress: Progress = silent,
    ) -> Judgement:
        """Asks a program, and the float model that it was made of.

        Args:
            program: The .pte of a classifier.
            folder: With labels.
            preprocessing: From a picture to the input of both.
            model: The float model; None: it is not asked.
            class_names: In the order of the classes.
            processes: Of the program; 1 stays in this one.
            progress: Wraps the loops over the images.

        Raises:
            PackQViTError: The folder has no labels, one of them is no class of the model, or an image cannot be read.
        """
        require_labels(folder)
        integer = predict_program(Path(program), folder, preprocessing, processes, progress)
        reference = None if model is None else predict_float(model, folder, preprocessing, progress=progress)
        return cls(folder, preprocessing, integer, reference, class_names)

    @property
    def labels(self) -> Tensor:
        """int64 [n]."""
        return tensor(self.folder.labels or ())

    def top1(self, answers: Answers) -> int:
        """How many images get the answer that their label asks for."""
        return int((answers.classes == self.labels).sum())

    def top5(self, answers: Answers) -> int | None:
        """How many labels are among the five best classes; None where only the best ones are known."""
        if answers.logits is None:
            return None
        best = answers.logits.topk(min(TOP, answers.logits.shape[1])).indices
        return int((best == self.labels[:, None]).any(1).sum())

    def standard_error(self) -> float:
        """Of the program's top-1, as a share: what other images of the same kind would make of it."""
        count = len(self.folder)
        share = self.top1(self.integer) / count
        return math.sqrt(share * (1 - share) / count)

    def same(self) -> int | None:
        """How many answers are the float model's, right or wrong."""
        return None if self.reference is None else int((self.integer.classes == self.reference.classes).sum())

    def divergence(self) -> float | None:
        """Mean divergence from the float model's class probabilities in nats; None where they are not known."""
        return None if self.reference is None else divergence(self.integer, self.reference)

    def changes(self) -> list[Change]:
        """The images with other answers: right ones that were lost first, then those that were won."""
        if self.reference is None:
            return []
        answers = zip(self.labels.tolist(), self.reference.classes.tolist(), self.integer.classes.tolist(), strict=True)
        found = [Change(i, label, before, after) for i, (label, before, after) in enumerate(answers) if before != after]
        order = {"lost": 0, "won": 1}
        return sorted(found, key=lambda change: order.get(change.kind, 2))

    def confusions(self, most: int) -> list[Confusion]:
        """The pairs of a class and a wrong answer whose number changed, those that changed most first."""
        if self.reference is None:
            return []
        labels = self.labels.tolist()
        before = Counter(zip(labels, self.reference.classes.tolist(), strict=True))
        after = Counter(zip(labels, self.integer.classes.tolist(), strict=True))
        found = [
            Confusion(label, answer, before[label, answer], after[label, answer])
            for label, answer in before | after
            if label != answer and before[label, answer] != after[label, answer]
        ]
        return sorted(found, key=lambda item: (-abs(item.after - item.before), item.label, item.answer))[:most]

    def short_name(self, label: int) -> str:
        """Of a class, without its synonyms."""
        return self.name(label).partition(",")[0]

    def name(self, label: int) -> str:
        """Of a class; its number where it has no name."""
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"
