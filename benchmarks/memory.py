"""The most memory that one call holds beside what it was given, in XLA's account and in PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def xla(compiled: Any) -> int:
    """Bytes of a compiled program: what it keeps in between, and results that do not reuse an argument."""
    found = compiled.memory_analysis()
    return int(found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes)


def torch_call(function: Callable[[], Any]) -> int:
    """Bytes: the highest sum of what PyTorch allocates and frees during a call on the CPU, as its profiler sees it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest
