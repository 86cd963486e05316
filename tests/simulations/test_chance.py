import subprocess
import sys

from simulations.chance import START_MS, SeededEntropy, VirtualClock, named


class Now:
    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


def test_a_name_has_one_generator() -> None:
    assert named(1, "jitter", 3).random() == named(1, "jitter", 3).random()


def test_other_seeds_and_other_names_have_others() -> None:
    drawn = [
        named(1, "a").random(),
        named(2, "a").random(),
        named(1, "a", "1").random(),
        named(1, "a", 1).random(),
        named(1, "a1").random(),
        named(1, "a/int:1:1").random(),
        named(11, "").random(),
        named(1, "1").random(),
    ]
    assert len(set(drawn)) == len(drawn)


def test_a_name_draws_the_same_in_another_process() -> None:
    program = "from simulations.chance import *; print(named(7, 'x', 2).random(), end=' ');"
    program += "print(SeededEntropy(7, 'x').token_bytes(4).hex())"
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1")
    ]
    here = f"{named(7, 'x', 2).random()} {SeededEntropy(7, 'x').token_bytes(4).hex()}\n"
    assert said == [here, here]


def test_entropy_never_says_the_same_twice() -> None:
    entropy = SeededEntropy(1, "node", 0)
    assert len({entropy.token_bytes(8) for _ in range(1000)}) == 1000
    assert len(entropy.token_bytes(100)) == 100
    assert SeededEntropy(1, "node", 0).token_bytes(8) != SeededEntropy(1, "node", 1).token_bytes(8)


def test_a_wall_clock_follows_virtual_time() -> None:
    now = Now()
    clock = VirtualClock(now)
    now.at_s = 1.5
    assert clock.wall_ms() == START_MS + 1500


def test_a_wall_clock_steps_and_drifts_from_where_it_is() -> None:
    now = Now()
    clock = VirtualClock(now)
    now.at_s = 100.0
    clock.step(-3600.0)
    assert clock.wall_ms() == START_MS + 100_000 - 3_600_000
    clock.drift_ppm = 200.0
    now.at_s = 1100.0
    assert clock.wall_ms() == START_MS + 1_100_000 - 3_600_000 + 200
    clock.drift_ppm = 0.0
    now.at_s = 2100.0
    assert clock.wall_ms() == START_MS + 2_100_000 - 3_600_000 + 200
