"""WebDataset's rule of what belongs together in a tar: a key ends at the first dot of a name."""

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from data.shards.archive import Member
from swinmim.errors import DataError
from swinmim.outside import one_line


@dataclass
class Keyed:
    """What a tar holds under one key.

    images: (suffix, member) in the order of the tar.
    parts: what belongs to them, by suffix.
    others: all else.
    """

    key: str
    images: list[tuple[str, Member]] = field(default_factory=list)
    parts: dict[str, Member] = field(default_factory=dict)
    others: list[Member] = field(default_factory=list)

    def chosen(self, name: str) -> list[Member]:
        """The images that are meant: the plainly named one; where all names have further dots, each is a sample.

        Raises:
            DataError: several are named plainly; calls the tar `name`.
        """
        plain = [image for image in self.images if "." not in image[0]]
        if len(plain) > 1:
            raise DataError(
                f"{name}: {one_line(self.key)} has {len(plain)} images ({', '.join(s for s, _ in plain)}); which one is"
                f" meant? Give the others a name with one more dot (KEY.other.{plain[-1][0]}), or take them out."
            )
        return [member for _, member in plain or self.images]


def by_key(
    members: Iterable[Member], is_image: Callable[[Member], bool], parts: Container[str], name: str
) -> list[Keyed]:
    """The samples of a tar in the order of their first members.

    Args:
        members: of the tar, in its order.
        is_image: whether a member is one.
        parts: suffixes of what is no image of its own, whatever `is_image` says.
        name: how errors call the tar.

    Raises:
        DataError: the same name twice, but for upper and lower case.
    """
    found: dict[str, Keyed] = {}
    seen: set[str] = set()
    for member in members:
        folder, slash, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = folder + slash + stem, suffix.lower()
        if f"{key}.{suffix}" in seen:
            raise DataError(f"{name} holds {one_line(member.name)} twice (case aside). Remove or rename one of them.")
        seen.add(f"{key}.{suffix}")
        sample = found.setdefault(key, Keyed(key))
        if suffix in parts:
            sample.parts[suffix] = member
        elif is_image(member):
            sample.images.append((suffix, member))
        else:
            sample.others.append(member)
    return list(found.values())
