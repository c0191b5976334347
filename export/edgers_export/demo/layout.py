"""What stands where in a scene of a mobile robot's forward camera, and the right answers that follow.

Three lanes (left, centre, right) lead away from the robot. Each may hold a box, a cone or a person, near or
far; a door may be in the back wall. Only near things matter to the robot: it goes forward while the centre
lane is clear nearby, swerves to a clear side when a thing blocks the centre, and stops for a person ahead or
when there is no way around.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

KINDS = ("box", "cone", "person")
BOX, CONE, PERSON = KINDS
SIDES = ("left", "centre", "right")
LEFT, CENTRE, RIGHT = range(3)

KEY_WORDS: Mapping[str, tuple[str, ...]] = {
    "action": ("forward", "left", "right", "stop"),
    "person": ("no", "yes"),
    "door": ("none", "left", "centre", "right"),
    "blocker": ("nothing", "box", "cone", "person"),
}
"""The possible answers to each question; the order gives each answer its index."""

EQUAL_GAPS = "equal gaps"
MIDDLE_DEPTH = "middle depth"
HIDDEN_PERSON = "hidden person"
FAINT_DOOR = "faint door"
AMBIGUITIES = (EQUAL_GAPS, MIDDLE_DEPTH, HIDDEN_PERSON, FAINT_DOOR)
ANY = "any"
"""Asks for the usual mixture: mostly clear scenes and a few of each ambiguity."""

AMBIGUITY_SHARE = 0.04  # of each of the four
ACTION_SHARES = (0.28, 0.26, 0.26, 0.20)
PERSON_SHARE = 0.40
DOOR_SHARE = 0.75
FAR_SHARE = 0.40
GAP_SHARE = 0.35  # of the swerves: both sides are free and one gap is plainly wider

Lanes = list[str | None]


@dataclass(frozen=True)
class Layout:
    """What one scene holds. Lanes are indexed LEFT, CENTRE, RIGHT; None is an empty lane."""

    action: str
    near: tuple[str | None, ...]
    far: tuple[str | None, ...]
    door_lane: int | None
    ambiguity: str | None
    centre_shift: float = 0.0
    """How far the centre thing stands off the centre, in image widths, positive to the right."""
    middle_nearness: float | None = None
    """Depth of a person in the centre lane between near (1) and far (0); None without such a person."""
    hiding_lane: int | None = None
    """The lane whose tall box hides all but the head of a person; None without such a person."""

    @property
    def person(self) -> str:
        """Whether a person is anywhere in view: "yes" or "no"."""
        is_extra = self.middle_nearness is not None or self.hiding_lane is not None
        return "yes" if is_extra or PERSON in self.near + self.far else "no"

    @property
    def door(self) -> str:
        """Where the door is: "none" or a side."""
        return "none" if self.door_lane is None else SIDES[self.door_lane]

    @property
    def blocker(self) -> str:
        """What blocks the way: "nothing" or a kind."""
        if self.middle_nearness is not None:
            return PERSON if self.action == "stop" else "nothing"
        return self.near[CENTRE] or "nothing"


def plan(rng: np.random.Generator, ambiguity: str | None = ANY) -> Layout:
    """Choose what stands where.

    `ambiguity` is one of AMBIGUITIES, None for a clear scene, or ANY for the usual mixture (16% ambiguous).
    The labels of an ambiguous scene are partly random on purpose; score such scenes apart.

    Raises ValueError for another value of `ambiguity`.
    """
    if ambiguity == ANY:
        ambiguity = _draw_ambiguity(rng)
    elif ambiguity is not None and ambiguity not in AMBIGUITIES:
        raise ValueError(f"ambiguity is {ambiguity!r}; choose one of {(ANY, None, *AMBIGUITIES)}")
    # A person elsewhere would give away the hidden one, and might take the place of the faint door.
    wants_person = ambiguity not in (HIDDEN_PERSON, FAINT_DOOR) and _chance(rng, PERSON_SHARE)
    middle_nearness = float(rng.uniform(0.35, 0.65)) if ambiguity == MIDDLE_DEPTH else None
    action = _draw_action(rng, ambiguity, middle_nearness)
    is_swerve = action in ("left", "right")
    is_gap = is_swerve and (ambiguity == EQUAL_GAPS or (ambiguity is None and _chance(rng, GAP_SHARE)))
    near = _place_near(rng, action, ambiguity, wants_person=wants_person, is_gap=is_gap)
    hiding_lane = _place_hiding_box(rng, near) if ambiguity == HIDDEN_PERSON else None
    free_lanes = [] if is_gap else [lane for lane in range(3) if near[lane] is None]
    if ambiguity == MIDDLE_DEPTH:
        free_lanes.remove(CENTRE)
    far = _place_far(rng, free_lanes, wants_person=wants_person)
    if wants_person and PERSON not in near + far and free_lanes and ambiguity != MIDDLE_DEPTH:
        far[_pick(rng, free_lanes)] = PERSON
    return Layout(
        action=action,
        near=tuple(near),
        far=tuple(far),
        door_lane=_place_door(rng, near, far, hiding_lane, ambiguity),
        ambiguity=ambiguity,
        centre_shift=_draw_shift(rng, action, ambiguity) if is_gap else 0.0,
        middle_nearness=middle_nearness,
        hiding_lane=hiding_lane,
    )


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _pick(rng: np.random.Generator, lanes: list[int]) -> int:
    return lanes[int(rng.integers(len(lanes)))]


def _draw_ambiguity(rng: np.random.Generator) -> str | None:
    position = int(rng.random() / AMBIGUITY_SHARE)
    return AMBIGUITIES[position] if position < len(AMBIGUITIES) else None


def _draw_action(rng: np.random.Generator, ambiguity: str | None, middle_nearness: float | None) -> str:
    if ambiguity == EQUAL_GAPS:
        return "left" if _chance(rng, 0.5) else "right"
    if middle_nearness is not None:
        return "stop" if _chance(rng, middle_nearness) else "forward"
    return str(rng.choice(KEY_WORDS["action"], p=ACTION_SHARES))


def _thing(rng: np.random.Generator) -> str:
    return BOX if _chance(rng, 0.5) else CONE


def _thing_or_person(rng: np.random.Generator, wants_person: bool) -> str:
    return PERSON if wants_person and _chance(rng, 0.35) else _thing(rng)


def _place_near(
    rng: np.random.Generator, action: str, ambiguity: str | None, *, wants_person: bool, is_gap: bool
) -> Lanes:
    near: Lanes = [None, None, None]
    if ambiguity == MIDDLE_DEPTH:
        _fill_sides(near, 0.4, lambda: _thing(rng), rng)
    elif action == "forward":
        _fill_sides(near, 0.5, lambda: _thing_or_person(rng, wants_person), rng)
    elif action in ("left", "right"):
        near[CENTRE] = _thing(rng)
        if not is_gap:
            near[RIGHT if action == "left" else LEFT] = _thing_or_person(rng, wants_person)
    elif ambiguity != HIDDEN_PERSON and _chance(rng, 0.5):
        near[CENTRE] = PERSON
        _fill_sides(near, 0.4, lambda: _thing(rng), rng)
    else:
        left, right = (_thing_or_person(rng, wants_person) for _ in range(2))
        near = [left, _thing(rng), right]
    return near


def _fill_sides(near: Lanes, share: float, choose: Callable[[], str], rng: np.random.Generator) -> None:
    for lane in (LEFT, RIGHT):
        if _chance(rng, share):
            near[lane] = choose()


def _place_hiding_box(rng: np.random.Generator, near: Lanes) -> int:
    occupied = [lane for lane in range(3) if near[lane] is not None]
    lane = _pick(rng, occupied or [LEFT])
    near[lane] = BOX
    return lane


def _place_far(rng: np.random.Generator, free_lanes: list[int], *, wants_person: bool) -> Lanes:
    far: Lanes = [None, None, None]
    for lane in free_lanes:
        if _chance(rng, FAR_SHARE):
            far[lane] = PERSON if wants_person and _chance(rng, 0.5) else _thing(rng)
    return far


def _place_door(
    rng: np.random.Generator, near: Lanes, far: Lanes, hiding_lane: int | None, ambiguity: str | None
) -> int | None:
    """Choose a lane where nobody stands in front of the door, or None."""
    free_lanes = [lane for lane in range(3) if PERSON not in (near[lane], far[lane]) and lane != hiding_lane]
    if ambiguity == MIDDLE_DEPTH:
        free_lanes.remove(CENTRE)
    if not free_lanes or not (ambiguity == FAINT_DOOR or _chance(rng, DOOR_SHARE)):
        return None
    return _pick(rng, free_lanes)


def _draw_shift(rng: np.random.Generator, action: str, ambiguity: str | None) -> float:
    """Move the centre thing away from the gap that the robot should take, or hardly at all."""
    if ambiguity == EQUAL_GAPS:
        return float(rng.uniform(-0.012, 0.012))
    shift = float(rng.uniform(0.07, 0.13))
    return shift if action == "left" else -shift
