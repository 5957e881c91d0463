"""Every statistic of the GPU passes against its definition in float64, at the lengths of the plan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import torch

from probe.kernels.decode import decode_statistics
from probe.kernels.decode_testing import assert_decoded_close
from probe.kernels.decoded import DecodeRequest
from probe.kernels.dispatch import attention_statistics
from probe.kernels.testing import MismatchError
from tests.benchmarks.gpu_pieces import Record
from tests.benchmarks.gpu_plan import Plan, full_request, make_call
from tests.benchmarks.gpu_truth import HeadTruth, shares
from tests.benchmarks.measuring import Clock


def checks(plan: Plan, length: int, device: torch.device, clock: Clock | None = None) -> Iterator[Record]:
    """The worst error of every statistic at one length, for each checked head, as a share of its bound.

    Once with the parts written and once with their sums alone; a second run of the first must give equal bits.
    """
    call, count = make_call(plan, length, device), dict(plan.checked)[length]
    requests = [full_request(call, bands=plan.bands, parts=parts) for parts in (True, False)]
    found = [attention_statistics(call, request, backend="triton") for request in requests]
    again = attention_statistics(call, requests[0], backend="triton")
    names = ("lse", "entropy", "received", "by_distance", "local_part", "thumbnail")
    pairs = [(found[0][0], again[0]), *((getattr(found[0][1], name), getattr(again[1], name)) for name in names)]
    same = all(torch.equal(one.nan_to_num(-7.0), two.nan_to_num(-7.0)) for one, two in pairs)
    where = f"{length:,} tokens"
    yield {"kind": "check", "what": "equal bits on a second run", "worst": 0.0 if same else 2.0, "where": where}
    del again, pairs
    for head in (plan.heads - 1 - n * (plan.heads // count) for n in range(count)):
        truth = HeadTruth(call, requests[0], 0, head)
        for z, statistics in found:
            for name, share in shares(truth, z, statistics).items():
                yield {"kind": "check", "what": name, "worst": share, "where": f"{where}, head {head}"}


def decode_checks(plan: Plan, device: torch.device) -> Iterator[Record]:
    """Three queries over every number of keys, the last head of all against the dense definition on the CPU."""
    request = DecodeRequest(top=64)
    for keys in plan.decode_keys:
        call = make_call(plan, keys, device, queries=3)
        found = decode_statistics(call, request, backend="triton")
        last = replace(call, q=call.q[:, -1:].cpu(), k=call.k[:, -1:].cpu(), v=call.v[:, -1:].cpu())
        mine = replace(found, **{name: value[:, -1:].cpu() for name, value in vars(found).items()})
        try:
            worst = assert_decoded_close(mine, last, request)
        except MismatchError as error:
            print(f"decoding over {keys:,} keys: {error}", file=sys.stderr)
            worst = {"all": float("inf")}
        for name, share in worst.items():
            yield {"kind": "check", "what": f"decoding: {name}", "worst": share, "where": f"{keys:,} keys"}
