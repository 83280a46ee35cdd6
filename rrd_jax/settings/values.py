"""The values of a config as plain Python objects, without ml_collections."""

import dataclasses
from typing import Any

_TEACHER = "teacher."


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of a config, read and written by path, such as values["train.epochs"].

    Attributes:
      root: all fields and sections by name except the teachers; sections are dicts.
      teachers: the section of each teacher.
      labels: the names of these sections on the command line: ("teacher",), or ("teacher[0]",
        "teacher[1]") if the config has a list of teachers.
      current: index of the teacher that paths such as teacher.model refer to.
    """

    root: dict[str, Any]
    teachers: tuple[dict[str, Any], ...]
    labels: tuple[str, ...] = ("teacher",)
    current: int = 0

    def __getitem__(self, path: str) -> Any:
        holder, name = self._locate(path)
        return holder[name]

    def __setitem__(self, path: str, value: Any) -> None:
        holder, name = self._locate(path)
        holder[name] = value

    def _locate(self, path: str) -> tuple[dict[str, Any], str]:
        head, _, rest = path.partition(".")
        holder = self.root
        if head in self.labels:
            holder, path = self.teachers[self.labels.index(head)], rest
        elif head == "teacher" and rest:
            holder, path = self.teachers[self.current], rest
        *sections, name = path.split(".")
        for section in sections:
            holder = holder[section]
        return holder, name

    @property
    def label(self) -> str:
        """The name of the current teacher's section on the command line."""
        return self.labels[self.current]

    def labelled(self, path: str) -> str:
        """Returns a path as written on the command line, such as teacher[1].model."""
        is_teachers = path.startswith(_TEACHER)
        return f"{self.label}.{path.removeprefix(_TEACHER)}" if is_teachers else path

    def each_teacher(self) -> list["Values"]:
        """Returns these values once per teacher, with that teacher as the current one."""
        return [dataclasses.replace(self, current=i) for i in range(len(self.teachers))]

    def with_models(self) -> list["Values"]:
        """Returns these values once per teacher that has a network."""
        return [values for values in self.each_teacher() if values["teacher.model"]]

    def copy(self) -> "Values":
        """Returns a copy whose sections can be modified independently."""
        teachers = tuple(map(_copied, self.teachers))
        return dataclasses.replace(self, root=_copied(self.root), teachers=teachers)

    @property
    def tree(self) -> dict[str, Any]:
        """The fields as nested dicts, with the teacher as a dict or a list of dicts."""
        is_section = self.labels == ("teacher",)
        return {**self.root, "teacher": self.teachers[0] if is_section else list(self.teachers)}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    return list(map(_copied, value)) if isinstance(value, list) else value
