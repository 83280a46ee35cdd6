"""The text of a compiled program, read into instructions."""

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
    """Type, such as f32, and shape of an array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def item(self) -> int:
        """Bytes of an element."""
        return _BYTES.get(self.dtype, 4)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: unique in the program.
      opcode: such as fusion, convolution or custom-call.
      results: the arrays it makes, one but for tuples.
      operands: names of what it reads.
      number: of a parameter.
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
        """The first array it makes; one of no elements where it makes none."""
        return self.results[0] if self.results else Array("", (0,))

    @functools.cached_property
    def op_name(self) -> str:
        """What JAX called it: transformations, scopes and the primitive; "" if XLA made it."""
        found = _OP_NAME.search(self.attributes)
        return found.group(1).replace("\\'", "'") if found else ""

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """The computations it runs."""
        branches = _BRANCHES.search(self.attributes)
        names = branches.group(1).replace("%", "").replace(" ", "").split(",") if branches else []
        return (*_CALLED.findall(self.attributes), *names)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      name: of the module, by which a trace calls it.
      computations: their instructions, by name.
    """

    name: str
    computations: dict[str, tuple[Instruction, ...]]

    @functools.cached_property
    def instructions(self) -> dict[str, Instruction]:
        """All of them, by name."""
        return {i.name: i for lines in self.computations.values() for i in lines}

    def readers(self, instruction: Instruction) -> Iterator[Instruction]:
        """Who reads what an instruction makes; of a fusion, what inside it reads that."""
        users = self._users.get(instruction.name, ())
        for user in users:
            if user.opcode != "fusion":
                yield user
                continue
            for parameter in self.computations.get(user.called[0], ()):
                is_one = parameter.opcode == "parameter" and parameter.number < len(user.operands)
                if is_one and user.operands[parameter.number] == instruction.name:
                    yield from self.readers(parameter)
        if not users and instruction.name in self._callers:
            yield from self.readers(self._callers[instruction.name])

    @functools.cached_property
    def _callers(self) -> dict[str, Instruction]:
        """The fusion that an instruction is inside, by its name."""
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
        """The i-th array that an instruction reads."""
        return self.instructions[instruction.operands[i]].result

    def inside(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions that it is made of, those of inner computations too; or itself."""
        if not instruction.called or instruction.opcode in ("reduce", "sort", "scatter", "map"):
            yield instruction
            return
        for name in instruction.called:
            for inner in self.computations.get(name, ()):
                yield from self.inside(inner)


def parse(text: str) -> Program:
    """Reads what `jax.stages.Compiled.as_text` returns, or `Lowered.as_text("hlo")`."""
    name = re.search(r"^HloModule ([\w.\-]+)", text, re.MULTILINE)
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header.group(1), [])
        elif assignment := _ASSIGNMENT.match(line):
            current.append(_instruction(assignment.group(1), line[assignment.end() :]))
    kept = {key: tuple(lines) for key, lines in computations.items()}
    return Program(name.group(1) if name else "", kept)


def _instruction(name: str, text: str) -> Instruction:
    """An instruction, from what stands behind its name: type opcode(operands), attributes."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    results, rest = text[:end], text[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    operands = rest[len(opcode) + 1 : close]
    return Instruction(
        name,
        opcode,
        tuple(arrays(results)),
        _names(opcode, operands),
        int(operands) if opcode == "parameter" else -1,
        rest[close + 1 :],
    )


def _names(opcode: str, operands: str) -> tuple[str, ...]:
    if opcode in ("parameter", "constant"):
        return ()
    marked = re.findall(r"%([\w.\-]+)", operands)  # in what is compiled, as types may stand there
    return tuple(marked or re.findall(r"[\w.\-]+", operands))


def arrays(text: str) -> Iterator[Array]:
    """The arrays that a type names."""
    for dtype, shape in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", text)):
        lengths = re.findall(r"\d+", shape)
        yield Array(dtype, tuple(map(int, lengths)))


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` is closed."""
    first = text.find(")", start)
    if text.find("(", start + 1, first) < 0:
        return first if first >= 0 else len(text)  # most have none inside
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    return len(text)
