"""How a source is split, and what is forgotten: the options of ``data`` and ``forget``, which check themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.errors import UserError, unknown_name
from harness.validation import Options

Limit = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1, description="a share between 0 and 1")]
Label = Annotated[int, Field(description="a class, a whole number from 0")]


class SplitOptions(Options):
    """How the images of a source are divided.

    train_limit, test_limit: at most that many images in retain + forget, and in test. Where the data has groups, whole
    groups are taken, so the training set is the largest that does not exceed the limit.
    valid_fraction: of the size of the training set. test_fraction: of all images, where no official test set exists.
    label_noise: the share of *all* images, whatever split they end in, that get a uniformly drawn wrong label.
    normalise: scale every channel to mean 0 and standard deviation 1 over train + valid; otherwise raw values.
    classes: use the images of these classes only, renumbered in the order given. Index files then count what is left.
    """

    train_limit: Annotated[Limit | None, Field(description="a whole number from 1, or null for no limit")] = None
    test_limit: Annotated[Limit | None, Field(description="a whole number from 1, or null for no limit")] = None
    valid_fraction: Annotated[float, Field(gt=0, description="a number above 0, a share of the training set")] = 0.1
    test_fraction: Share = 0.2
    label_noise: Annotated[float, Field(ge=0, lt=1, description="a share from 0 up to, but not including, 1")] = 0.0
    normalise: bool = True
    classes: Annotated[list[int] | None, Field(description="a list of classes such as [0,1,2], or null for all")] = None


class Random(Options):
    """``n`` training images at random."""

    kind: Literal["random"] = "random"
    n: int


class WholeClass(Options):
    """All training images of class ``label``."""

    kind: Literal["class"] = "class"
    label: Label


class ClassPart(Options):
    """``n`` training images of class ``label``."""

    kind: Literal["class_part"] = "class_part"
    label: Label
    n: int


class Groups(Options):
    """All training images of ``n`` people drawn at random, of a fraction of the people, or of those in ``ids``."""

    kind: Literal["groups"] = "groups"
    n: int | None = None
    fraction: Annotated[float | None, Field(gt=0, lt=1, description="a share between 0 and 1")] = None
    ids: Annotated[int | list[int] | None, Field(description="a list of group ids such as [3,17]")] = None


class Mislabelled(Options):
    """``n`` training images that are given a wrong label; that label is the one trained on and scored."""

    kind: Literal["mislabelled"] = "mislabelled"
    n: int


class Memorised(Options):
    """The ``n`` training images with the ``highest``, ``lowest`` or ``middle`` (nearest to one half) memorisation.

    It is estimated from ``models`` models, each trained on a random ``share`` of the training set.
    """

    kind: Literal["memorised"] = "memorised"
    which: Literal["highest", "lowest", "middle"] = "highest"
    n: Annotated[int, Field(ge=1, description="a whole number from 1")] = 80
    models: Annotated[int, Field(ge=2, description="a whole number from 2")] = 64
    share: Share = 0.7


class Listed(Options):
    """The images that a file lists by their numbers in the source."""

    kind: Literal["file"] = "file"
    path: str | None = None


class Official(Options):
    """The forget set that the data come with."""

    kind: Literal["official"] = "official"


ForgetOptions = Random | WholeClass | ClassPart | Groups | Mislabelled | Memorised | Listed | Official
_KINDS: dict[str, type[ForgetOptions]] = {
    kind.model_fields["kind"].default: kind
    for kind in (Random, WholeClass, ClassPart, Groups, Mislabelled, Memorised, Listed, Official)
}


def forget_options(node: Any) -> ForgetOptions:
    """The options of the configuration node ``forget``. Raises UserError."""
    if not isinstance(node, Mapping):
        raise UserError(f"forget={'null' if node is None else node}: expected one of {', '.join(_KINDS)}")
    kind = str(node.get("kind"))
    if kind not in _KINDS:
        raise unknown_name("forget set", kind, _KINDS)
    return _KINDS[kind].read(dict(node), "forget")
