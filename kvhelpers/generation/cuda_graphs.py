"""Record a decode step once and replay it: on a GPU a small step's time is mostly the launching of its
kernels.

The records are CUDA graphs. They run the same kernels on the same places, so the tokens stay the same; a
record whose first replay differs from the plain step is dropped, and with it recording.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

Step = Callable[[], torch.Tensor]
Recorder = Callable[[Step], Step | None]


def recorder_for(device: str) -> Recorder | None:
    """The recorder of a device, or None where plain steps are as fast."""
    return CheckedRecorder(cuda_graph) if device == "cuda" else None


@dataclass(frozen=True)
class CheckedRecorder:
    """Records by ``record``; gives None, with a warning, when a step cannot be recorded or its replay gives
    other logits.

    A step is repeatable: it writes the same keys and values to the same places each time. Running out of
    memory raises.
    """

    record: Callable[[Step], Step]

    def __call__(self, step: Step) -> Step | None:
        expected = step()
        try:
            replay = self.record(step)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            return _give_up(f"cannot be recorded ({str(error).splitlines()[0]})")
        if not torch.allclose(replay(), expected, rtol=1e-4, atol=1e-4, equal_nan=True):
            return _give_up("gives other logits when replayed")
        return replay


def _give_up(why: str) -> None:
    warnings.warn(
        f"a decode step {why}; going on without recording, which is slower and otherwise the same",
        stacklevel=2,
    )


def cuda_graph(step: Step) -> Step:
    """Capture a step as a CUDA graph (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries set themselves up outside the capture
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay
