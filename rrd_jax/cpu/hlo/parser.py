"""Parses the text of a compiled program into instructions."""

import dataclasses
import functools
import re
from collections.abc import Iterator

_ASSIGNMENT = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<= ]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8, "u64": 8}
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """The type, such as f32, and the shape of an array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return _BYTES.get(self.dtype, 4)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction: one line of a program.

    Attributes:
      name: a name that is unique in the program.
      opcode: operation, such as fusion, convolution or custom-call.
      results: the arrays of the result; several for a tuple.
      operands: names of the instructions that it reads.
      number: number of a parameter; -1 for other instructions.
      attributes: the rest of the line.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    number: int
    attributes: str

    @property
    def result(self) -> Array:
        """The first array of the result; an array without elements if there is no array."""
        return self.results[0] if self.results else Array("", (0,))

    @functools.cached_property
    def op_name(self) -> str:
        """JAX's name: transformations, scopes and the primitive; "" for instructions of XLA."""
        match = _OP_NAME.search(self.attributes)
        return match.group(1).replace("\\'", "'") if match else ""

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that the instruction runs."""
        branches = _BRANCHES.search(self.attributes)
        names = branches.group(1).replace("%", "").replace(" ", "").split(",") if branches else []
        return (*_CALLED.findall(self.attributes), *names)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      name: name of the module, which traces show.
      computations: the instructions of each computation, by its name.
    """

    name: str
    computations: dict[str, tuple[Instruction, ...]]

    @functools.cached_property
    def instructions(self) -> dict[str, Instruction]:
        """The instructions of all computations, by name."""
        return {i.name: i for lines in self.computations.values() for i in lines}

    def readers(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yields the instructions that read a result, including the instructions inside fusions."""
        users = self._users.get(instruction.name, ())
        for user in users:
            if user.opcode != "fusion":
                yield user
                continue
            for parameter in self.computations.get(user.called[0], ()):
                is_operand = parameter.opcode == "parameter" and parameter.number < len(
                    user.operands
                )
                if is_operand and user.operands[parameter.number] == instruction.name:
                    yield from self.readers(parameter)
        if not users and instruction.name in self._callers:
            yield from self.readers(self._callers[instruction.name])

    @functools.cached_property
    def _callers(self) -> dict[str, Instruction]:
        """The fusion that contains an instruction, by the instruction's name."""
        return {
            inner.name: caller
            for caller in self.instructions.values()
            if caller.opcode == "fusion"
            for name in caller.called
            for inner in self.computations.get(name, ())
        }

    @functools.cached_property
    def _users(self) -> dict[str, list[Instruction]]:
        users: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                users.setdefault(operand, []).append(instruction)
        return users

    def operand(self, instruction: Instruction, i: int) -> Array:
        """Returns the i-th array that an instruction reads."""
        return self.instructions[instruction.operands[i]].result

    def nested_instructions(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yields the instructions of all computations that an instruction runs, or itself."""
        if not instruction.called or instruction.opcode in ("reduce", "sort", "scatter", "map"):
            yield instruction
            return
        for name in instruction.called:
            for inner in self.computations.get(name, ()):
                yield from self.nested_instructions(inner)


def parse(text: str) -> Program:
    """Parses the text of `jax.stages.Compiled.as_text()` or `jax.stages.Lowered.as_text("hlo")`."""
    name = re.search(r"^HloModule ([\w.\-]+)", text, re.MULTILINE)
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header.group(1), [])
        elif assignment := _ASSIGNMENT.match(line):
            current.append(_instruction(assignment.group(1), line[assignment.end() :]))
    frozen = {key: tuple(lines) for key, lines in computations.items()}
    return Program(name.group(1) if name else "", frozen)


def _instruction(name: str, text: str) -> Instruction:
    """Parses the part of a line after the name: type opcode(operands), attributes."""
    end = _closing_bracket(text, 0) + 1 if text.startswith("(") else text.index(" ")
    results, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing_bracket(rest, len(opcode))
    operands = rest[len(opcode) + 1 : close]
    return Instruction(
        name,
        opcode,
        tuple(parse_arrays(results)),
        _names(opcode, operands),
        int(operands) if opcode == "parameter" else -1,
        rest[close + 1 :],
    )


def _names(opcode: str, operands: str) -> tuple[str, ...]:
    if opcode in ("parameter", "constant"):
        return ()
    # Compiled programs mark names by %, because they may also contain types.
    marked = re.findall(r"%([\w.\-]+)", operands)
    return tuple(marked or re.findall(r"[\w.\-]+", operands))


def parse_arrays(text: str) -> Iterator[Array]:
    """Yields the arrays of a type."""
    for dtype, shape in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", text)):
        lengths = re.findall(r"\d+", shape)
        yield Array(dtype, tuple(map(int, lengths)))


def _closing_bracket(text: str, start: int) -> int:
    """Returns the position of the bracket that closes the bracket at `start`."""
    first = text.find(")", start)
    # Most brackets contain no other brackets.
    if text.find("(", start + 1, first) < 0:
        return first if first >= 0 else len(text)
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    return len(text)
