"""What the compiler makes of every kernel that a GPU call can choose, without a GPU: instructions, registers, spills.

    python -m tests.benchmarks.compiled [--only TEXT [--write]]

Compiles for sm_80 and sm_90 and reads the machine code with the disassembler that Triton brings along. Writes
`results/compile.json` and `results/compile.md`. These are facts about code, not timings.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention, Mask, Score
from probe.kernels.triton_config import Configuration
from probe.kernels.triton_decode import constants_of, decode_kernel, tile_of
from probe.kernels.triton_decode_merge import MERGE_OPTIONS, merge_constants_of, merge_kernel
from tests.benchmarks.configurations import configurations
from tests.benchmarks.machine_code import SPILLS, listed

RESULTS = Path(__file__).parent / "results"
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARCHITECTURES = (80, 90)

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


@dataclass(frozen=True)
class Case:
    """One kernel to compile: its function, the type of every argument, the constants, the options of the launch."""

    label: str
    kernel: str
    width: int
    dtype: torch.dtype
    rows: int
    keys: int
    function: Any = field(repr=False)
    signature: dict[str, str] = field(repr=False)
    constants: dict[str, Any] = field(repr=False)
    options: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Code:
    """What the machine code is made of. spills: instructions that store to or load from local memory (STL, LDL).

    loop_spills: those in loops over tiles. loop: instructions a score in the shortest of these loops, the one that
    needs no mask; 0 where there is no tensor-core instruction to know it by.
    """

    label: str
    kernel: str
    width: int
    dtype: str
    tile: str
    arch: int
    registers: int
    stack: int
    shared: int
    spills: int
    loop_spills: int
    loop: float
    hgmma: int
    hmma: int
    exponentials: int
    instructions: int


def cases(arch: int) -> list[Case]:
    """Everything the launchers can choose: `configurations` of the passes, and decoding by width, dtype and rules."""
    return [_pass_case(one) for one in configurations(arch)] + list(_decode_cases())


def _pass_case(one: Configuration) -> Case:
    facts = one.facts
    return Case(
        label=one.label,
        kernel=one.kernel,
        width=max(facts.D, facts.DV),
        dtype=facts.dtype,
        rows=one.tiles.rows,
        keys=one.tiles.keys,
        function=one.function,
        signature=one.signature(),
        constants={**one.constants, **dict.fromkeys(one.absent)},
        options=one.options,
    )


def _decode_cases() -> Iterable[Case]:
    everything: dict[str, Any] = {
        "mask": {
            "window": 4096,
            "lengths": torch.zeros(1, 2, dtype=torch.long),
            "documents": torch.zeros(1, 8192, dtype=torch.long),
        },
        "score": {"softcap": 30.0, "slopes": torch.zeros(8), "temperature": torch.ones(1, 1), "sinks": torch.zeros(8)},
    }
    for dtype in TYPES:
        for width in (16, 32, 64, 80, 96, 128, 192, 256):
            yield from decode_cases(f"D{width} {_name(dtype)}", width, dtype)
    for width in (64, 128):
        yield from decode_cases(f"D{width} one query, 32 rows", width, torch.bfloat16, heads=32)
        yield from decode_cases(f"D{width} four queries, 64 rows", width, torch.bfloat16, heads=16, queries=4)
        yield from decode_cases(f"D{width} every rule", width, torch.bfloat16, **everything)
        for top in (8, 64, 256):
            yield from decode_cases(f"D{width} {top} strongest keys", width, torch.bfloat16, top=top)
        yield from decode_cases(f"D{width} every rule, 64 strongest keys", width, torch.bfloat16, top=64, **everything)
        yield from decode_cases(f"D{width} float32, 64 strongest keys", width, torch.float32, top=64)


def decode_cases(
    label: str,
    width: int,
    dtype: torch.dtype,
    *,
    heads: int = 4,
    queries: int = 1,
    top: int = 0,
    mask: dict[str, Any] | None = None,
    score: dict[str, Any] | None = None,
) -> Iterable[Case]:
    """Both launches of decoding: `queries` queries of `heads` query heads over one key/value head."""
    q, k = (torch.empty(1, n, t, width, dtype=dtype, device="meta") for n, t in ((heads, queries), (1, 8192)))
    call = Attention(q, k, k, Mask(query_offset=8192 - queries, **(mask or {})), Score(1.0, **(score or {})))
    request, tile = DecodeRequest(top=top), tile_of(heads * queries, call, top)
    types = dict.fromkeys(("q", "k", "v", "z"), TYPES[dtype]) | {"factor": "fp32", "softcap": "fp32"}
    types |= dict.fromkeys(("arg", "lengths", "starts", "stops"), "*i32")
    types |= dict.fromkeys(("ranked", "argmax", "visible", "top_key"), "*i64")
    types |= dict.fromkeys(("out", "sums", "slopes", "temperature", "learned", "statistics", "top_weight"), "*fp32")
    for kernel, function, rows, keys, constants, options in (
        ("decode", decode_kernel, tile.rows, tile.keys, constants_of(call, tile, request), tile.options),
        ("merge", merge_kernel, 1, 0, merge_constants_of(call, request), MERGE_OPTIONS),
    ):
        yield Case(
            label=f"{kernel} {label}",
            kernel=kernel,
            width=width,
            dtype=dtype,
            rows=rows,
            keys=keys,
            function=function,
            signature={name: types.get(name, "i32") for name in function.arg_names if name not in constants},
            constants=constants,
            options=options,
        )


def compiled(case: Case, arch: int) -> Code:
    """Compile for an architecture and read the machine code."""
    names = case.function.arg_names
    # As a launch specialises its arguments: a stride of 1 is a constant, pointers and other strides divide by 16.
    unit = {name: 1 for name in case.signature if re.fullmatch(r"stride_\w?d|s[qkv]_d", name)}
    constants = {**case.constants, **unit}
    signature = {name: "constexpr" if name in constants else case.signature[name] for name in names}
    aligned = [name for name in names if signature[name].startswith("*") or re.match(r"stride_|s[qkv]_", name)]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned if name not in constants}
    source = ASTSource(case.function, signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=case.options)
    listing = listed(_tool("nvdisasm", ["-c"], made.asm["cubin"]))
    counted, bodies = Counter(listing.opcodes), listing.bodies()
    scores = case.rows * case.keys / (32 * case.options["num_warps"])
    usage = resources(made.asm["cubin"])
    return Code(
        label=case.label,
        kernel=case.kernel,
        width=case.width,
        dtype=_name(case.dtype),
        tile=f"{case.rows} x {case.keys}, {case.options['num_warps']} warps, {case.options['num_stages']} stages",
        arch=arch,
        registers=usage["REG"],
        stack=usage["STACK"],
        shared=made.metadata.shared,
        spills=sum(counted[code] for code in SPILLS),
        loop_spills=sum(code in SPILLS for body in bodies for code in body),
        loop=round(len(bodies[0]) / scores, 1) if bodies else 0.0,
        hgmma=counted["HGMMA"],
        hmma=counted["HMMA"],
        exponentials=counted["MUFU"],
        instructions=sum(counted.values()) - counted["NOP"],
    )


def resources(cubin: bytes) -> dict[str, int]:
    """Registers a thread (REG), stack bytes (STACK) and the rest of what the loader is told."""
    return {name: int(number) for name, number in re.findall(r"(\w+):(\d+)", _tool("cuobjdump", ["-res-usage"], cubin))}


def _tool(name: str, options: list[str], cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([TOOLS / name, *options, file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed on a compiled kernel: {done.stderr.strip()[-500:]}")
    return done.stdout


def complaints(code: Code) -> list[str]:
    """What is wrong with a compiled kernel: no tensor cores where the inputs are 16 bits wide, spills up to width 128.

    sm_90's own instruction (HGMMA) wants 64 rows; a decoding tile has fewer and uses HMMA on both.
    """
    found = []
    if code.dtype != "float32" and code.kernel != "merge":  # which has no matrix product
        own = code.arch >= 90 and int(code.tile.split(" ")[0]) >= 64
        if own and not code.hgmma:
            found.append("no HGMMA")
        if not own and not code.hmma:
            found.append("no HMMA")
    if code.width <= 128 and code.spills:
        found.append(f"{code.spills} spill instructions, {code.loop_spills} of them in loops")
    limit = {80: 163, 90: 227}[code.arch] * 1024
    if code.shared > limit:
        found.append(f"{code.shared} bytes of shared memory, {limit} are there")
    return found


def table(codes: list[Code], versions: dict[str, str], *, of: int) -> str:
    """The results as a Markdown table, one row a kernel and architecture; `of` is how many there would be in all."""
    bad = [code for code in codes if complaints(code)]
    lines = [
        f"{len(codes)} of {of} kernels, {', '.join(f'{name} {number}' for name, number in versions.items())}; "
        f"{len(bad)} of them with a complaint (last column). Facts about machine code, not timings.",
        "",
        "| kernel | sm | tile | registers | spills | shared KiB | HGMMA | HMMA | MUFU | instructions "
        "| a score, in the loop | complaint |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, codes)]) + "\n"


def _row(code: Code) -> str:
    numbers = (code.registers, code.spills, round(code.shared / 1024), code.hgmma, code.hmma, code.exponentials)
    cells = [code.label, code.arch, code.tile, *numbers, f"{code.instructions:,}", code.loop or ""]
    cells.append("; ".join(complaints(code)))
    return "| " + " | ".join(map(str, cells)) + " |"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    """Compile everything (about half an hour on a free core; Triton keeps what it has compiled), write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="kernels whose name holds one of these texts, parted by commas")
    parser.add_argument("--write", action="store_true", help="write the files even so: they say how many are left out")
    options = parser.parse_args()
    every, codes = [(case, arch) for arch in ARCHITECTURES for case in cases(arch)], []
    for case, arch in every:
        if any(text in case.label for text in options.only.split(",")):
            codes.append(compiled(case, arch))
            print(f"{case.label}, sm_{arch}: {codes[-1].registers} registers", *complaints(codes[-1]), flush=True)
    versions = {name: version(name) for name in ("headprobe", "triton", "torch")}
    text = table(codes, versions, of=len(every))
    if options.write or not options.only:
        RESULTS.mkdir(exist_ok=True)
        document = {"versions": versions, "kernels": [asdict(code) for code in codes]}
        (RESULTS / "compile.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / "compile.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
