from __future__ import annotations

from pathlib import Path

from appliance.cubelet.remembered import Remembered, basis_of, remembered_or
from appliance.hypervisor.base import Accelerator

KIND = Remembered[Accelerator]


class Chooser:
    def __init__(self, answer: Accelerator) -> None:
        self.answer = answer
        self.asked = 0

    async def __call__(self) -> Accelerator:
        self.asked += 1
        return self.answer


async def test_a_choice_is_made_once_a_boot(tmp_path: Path) -> None:
    kernel, memory = tmp_path / "vmlinuz", tmp_path / "accelerator.json"
    kernel.write_text("k")
    choose = Chooser(Accelerator.TCG)
    for _ in range(2):
        assert await remembered_or(KIND, choose, memory=memory, basis=basis_of("boot-1", kernel)) is Accelerator.TCG
    assert choose.asked == 1


async def test_another_boot_or_kernel_is_tried_anew(tmp_path: Path) -> None:
    kernel, memory = tmp_path / "vmlinuz", tmp_path / "accelerator.json"
    kernel.write_text("k")
    await remembered_or(KIND, Chooser(Accelerator.TCG), memory=memory, basis=basis_of("boot-1", kernel))
    choose = Chooser(Accelerator.KVM)
    assert await remembered_or(KIND, choose, memory=memory, basis=basis_of("boot-2", kernel)) is Accelerator.KVM
    kernel.write_text("another")
    await remembered_or(KIND, choose, memory=memory, basis=basis_of("boot-2", kernel))
    assert choose.asked == 2


async def test_an_unreadable_memory_is_no_answer(tmp_path: Path) -> None:
    memory = tmp_path / "accelerator.json"
    memory.write_text('{"basis": ["x"], "answer": "warp"}')
    choose = Chooser(Accelerator.TCG)
    assert await remembered_or(KIND, choose, memory=memory, basis=("x",)) is Accelerator.TCG
    assert choose.asked == 1


async def test_an_answer_may_be_that_there_is_none(tmp_path: Path) -> None:
    asked = 0

    async def objection() -> str | None:
        nonlocal asked
        asked += 1
        return None

    for _ in range(2):
        memory = tmp_path / "changed-pages.json"
        assert await remembered_or(Remembered[str | None], objection, memory=memory, basis=("x",)) is None
    assert asked == 1
