"""What the rain renderer draws from: every range of every rain scene, in frozen dataclasses.

A pair of numbers is a range ``(low, high)`` from which each scene draws one value, uniformly unless it says otherwise.
Lengths in pixels hold for an image whose shorter side is :data:`REFERENCE_SIDE`; other sizes are scaled with it, so
rain keeps its look from a thumbnail to 4K. The paper does not render rain; all values here are our choice, set by eye
against public data sets.
"""

from dataclasses import dataclass, field, fields, replace

from unirain_plugin.errors import OptionError

REFERENCE_SIDE = 256  # shorter side, in pixels, for which the lengths below are given

Range = tuple[float, float]


class _Ranges:
    """Checks that every range is ordered."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, tuple):
                continue
            if len(value) != 2 or not value[0] <= value[1]:
                raise OptionError(f"{type(self).__name__}.{item.name}: {value} is no range; expected (low, high).")


@dataclass(frozen=True)
class StreakParams(_Ranges):
    """Rain streaks: falling drops that the shutter smears."""

    angle: Range = (-32.0, 32.0)  # direction of the fall common to the scene, degrees from the vertical
    angle_jitter: Range = (0.4, 3.5)  # standard deviation of a single streak's direction around it, degrees
    length: Range = (28.0, 90.0)  # length of a streak at depth 1, pixels (exposure time x speed of the fall)
    width: Range = (0.55, 1.25)  # standard deviation of the profile across a streak at depth 1, pixels
    depths: Range = (2, 4)  # number of depth layers
    depth_step: float = 1.8  # ratio of the distances of two neighbouring layers; length and width shrink by it
    density: Range = (12.0, 80.0)  # streaks in the nearest layer of an image of the reference size, drawn log-uniformly
    density_growth: float = 1.9  # the next, larger layer holds ``depth_step ** density_growth`` times as many
    opacity: Range = (0.3, 0.8)  # of a streak at depth 1 at most: the share of the exposure in which it covers a pixel
    depth_fading: float = 0.35  # opacity falls with ``depth ** -depth_fading``
    # radiance of a drop relative to the bright part of its surroundings, which it gathers from a wide field of
    # view. A streak shows ``(1 - a) * background + a * drop``: it brightens what is dark the most.
    brightness: Range = (0.9, 1.6)
    modulation: float = 0.25  # relative variation of the brightness along a streak (the drop oscillates while it falls)
    veil_share: float = 0.4  # share of the scenes that have mist
    veil: Range = (0.04, 0.22)  # largest opacity of the mist, in the far (upper) part of the image; near ones have none
    # how much the distance also follows the scene, 0 to 1: bright parts, such as the sky, lie farther; a curtain
    # of rain may hang at one side
    veil_depth: Range = (0.0, 0.0)
    veil_light: Range = (0.8, 0.8)  # radiance of the mist relative to the bright part of its surroundings
    fan: Range = (0.0, 0.0)  # degrees by which the direction changes from left to right (a camera that moves or tilts)
    clumping: Range = (0.0, 0.0)  # how much the streaks keep to some parts of the image, as in curtains of rain, 0 to 1
    taper: Range = (1.0, 1.0)  # how softly a streak ends, 0 (square) to 1
    code_share: float = 0.0  # share of the scenes in which sRGB codes are mixed, as simple programs do, not light
    added_share: float = 0.0  # share of the scenes in which rain only adds light and hides nothing
    # number of layers of noise smeared along the fall, as image editors draw rain: what is too fine and dense to
    # be told apart, or lines of one brightness, or patches
    sheets: Range = (0, 0)
    sheet: Range = (0.05, 0.5)  # largest opacity of such a layer, drawn log-uniformly for each, as are the next three
    grain: Range = (1.0, 4.0)  # size of its noise across the fall, pixels of the image itself, whatever its size
    cover: Range = (0.5, 1.0)  # share of the image that it covers
    full: Range = (0.005, 0.1)  # share of it that is fully opaque: small for soft streaks, large for flat, hard ones
    # share of these layers, and of the depth layers but the first, that fall in a direction of their own
    crossing: float = 0.0
    # share of the scenes whose rain is drawn on the finished image, as in most public data sets: in one grey,
    # ``grey``, an sRGB code / 255, whatever the scene's light is
    drawn_share: float = 0.0
    grey: Range = (0.55, 1.0)


@dataclass(frozen=True)
class DropParams(_Ranges):
    """Raindrops on the lens or on a pane before it."""

    count: Range = (16.0, 80.0)  # drops, drawn log-uniformly; the aspect ratio scales it, the resolution does not
    radius: Range = (4.5, 28.0)  # radius of a drop, pixels, drawn log-uniformly for each drop (small drops are many)
    size_spread: float = 0.6  # each scene draws its own sub-range of ``radius`` of this relative width
    merge: float = 0.8  # mean number of further balls that grow into a drop's outline (metaballs)
    trail_share: float = 0.15  # share of the larger drops that have run down and left a trail of beads
    view: Range = (0.22, 0.5)  # half the field that a drop shows, minified, relative to the image's shorter side
    defocus: Range = (0.12, 0.5)  # radius of the circle of confusion (the focus is on the scene), in mean drops' radii
    blades: Range = (0, 0)  # of the aperture, whose shape the circle of confusion has; fewer than five make a disc
    opacity: Range = (0.65, 0.97)  # opacity in a drop's middle; less than 1 where the aperture looks past the drop
    rim: Range = (0.35, 0.85)  # darkening towards the rim: light is refracted away, and Fresnel's reflection grows
    sky: Range = (0.05, 0.4)  # share of sky light in the lower part, which the inverting lens fills with what is above
    highlight: Range = (0.7, 2.0)  # radiance of the specular highlight relative to the bright part of the surroundings
    film_share: float = 0.0  # share of the scenes in which parts of the pane are wet all over and blur what is behind
    film: Range = (0.0, 0.0)  # standard deviation of that blur, pixels
    # share of the scenes in which the pane is also milky: drops too small and too far out of focus to be told apart
    mist_share: float = 0.0
    mist: Range = (0.0, 0.0)  # largest opacity of that mist
    even: Range = (0.0, 0.0)  # how far a drop shows the mean of a wide view, as its neighbours do, and not an image
    crowding: Range = (1, 1)  # the drops keep to one in so many parts of the pane


@dataclass(frozen=True)
class NightParams(_Ranges):
    """Night made from a photograph taken by day."""

    ambient: Range = (0.02, 0.07)  # light left without lamps, relative to the day, drawn log-uniformly
    ambient_kelvin: Range = (7500.0, 14000.0)  # moonlight and skyglow through a camera balanced for daylight
    lamps: Range = (1, 4)  # number of lamps that light the scene
    far_lamps: Range = (0, 10)  # number of distant lamps, visible as dots only
    lamp_kelvin: Range = (2000.0, 6500.0)  # colour temperature of the lamps: sodium to cold LED
    neon_share: float = 0.25  # share of lamps in a saturated colour (signals, shop signs)
    reach: Range = (0.2, 0.6)  # distance, relative to the shorter side, at which a lamp's light has halved
    lamp_power: Range = (0.15, 0.6)  # light of a lamp on the scene near it, relative to the day
    halo: Range = (0.03, 0.2)  # glow around a lamp (scattering in lens and air); clean and rainy image share it
    # mean that the camera's automatic exposure brings the linear image to, lamps not counted; less where a few
    # bright parts would be washed out
    exposure: Range = (0.025, 0.07)
    shot_noise: Range = (0.0001, 0.0012)  # variance of the shot noise per unit of signal
    read_noise: Range = (0.0005, 0.003)  # standard deviation of the read noise
    streak_gain: Range = (0.8, 2.4)  # falling rain lit by a lamp, relative to the scene lit by it (it scatters forward)
    drop_gain: Range = (2.0, 5.0)  # of drops on the lens, which gather the lamps' light from their whole field of view


@dataclass(frozen=True)
class HazeParams(_Ranges):
    """Haze by day."""

    far: Range = (0.4, 0.9)  # opacity at the greatest distance, at the top of the image
    near: Range = (0.05, 0.5)  # distance of the bottom, relative to the greatest
    relief: Range = (0.05, 0.2)  # standard deviation of the distance beside its growth, relative to the greatest
    airlight: Range = (0.75, 1.1)  # radiance of the haze relative to the bright part of the surroundings
    tint: float = 0.04  # standard deviation of the airlight's colour channels, relative


@dataclass(frozen=True)
class SnowParams(_Ranges):
    """Falling snow by day."""

    radius: Range = (1.5, 5.0)  # radius of a flake at depth 1, pixels
    length: Range = (0.0, 12.0)  # way that it falls while the shutter is open, pixels at depth 1
    angle: Range = (-45.0, 45.0)  # direction of the fall common to the scene, degrees from the vertical
    angle_jitter: Range = (3.0, 20.0)  # standard deviation of a single flake's direction around it, degrees
    density: Range = (6.0, 50.0)  # flakes in the nearest layer of an image of the reference size, drawn log-uniformly
    depths: Range = (2, 4)  # number of depth layers
    depth_step: float = 1.8  # ratio of the distances of neighbouring layers; the next holds its square times as many
    opacity: Range = (0.5, 0.95)  # opacity of a flake at depth 1
    depth_fading: float = 0.3  # opacity falls with ``depth ** -depth_fading``
    defocus: Range = (0.1, 0.5)  # blur of the nearest flakes relative to their radius; it shrinks with the depth
    brightness: Range = (0.9, 1.3)  # radiance of a flake relative to the bright part of the surroundings
    veil: HazeParams = field(default_factory=lambda: HazeParams(far=(0.0, 0.35)))  # snow too far to be resolved


@dataclass(frozen=True)
class CameraParams(_Ranges):
    """What the weather and the camera do to a rainy image beside the rain; the clean one keeps its light and detail."""

    dark_share: float = 0.0  # share of the streaks by day before a darker scene of more contrast
    gain: Range = (0.5, 1.0)  # light that is left of such a scene
    gamma: Range = (1.0, 1.6)  # exponent that its light is raised to first
    contrast: Range = (0.0, 0.0)  # 0 to 1: how much steeper than the identity its tone curve is in the middle
    jpeg_share: float = 0.0  # share of the pairs that are compressed after the rain, both images alike
    jpeg: Range = (50.0, 95.0)  # quality of that JPEG


@dataclass(frozen=True)
class RainParams:
    """All ranges of the renderer; ``dataclasses.replace`` makes lighter or heavier rain.

    ``daylight`` is the least luminance, a range, of the sky that rain and drops show by day, whatever an image's
    brightest part is: windows of the ground have a sky, too.
    """

    streaks: StreakParams = field(default_factory=StreakParams)
    drops: DropParams = field(default_factory=DropParams)
    night: NightParams = field(default_factory=NightParams)
    camera: CameraParams = field(default_factory=CameraParams)
    snow: SnowParams = field(default_factory=SnowParams)
    haze: HazeParams = field(default_factory=HazeParams)
    daylight: Range = (0.0, 0.0)


def finer(params: RainParams, factor: float) -> RainParams:
    """Rain whose streaks and drops are ``factor`` times as large, and 1 / ``factor``² times as many."""

    def scaled(part: StreakParams | DropParams, **powers: int) -> StreakParams | DropParams:
        old = {name: getattr(part, name) for name in powers}
        return replace(part, **{name: tuple(x * factor ** powers[name] for x in old[name]) for name in powers})

    return replace(
        params,
        streaks=scaled(params.streaks, length=1, width=1, density=-2),
        drops=scaled(params.drops, radius=1, film=1, count=-2),
    )


_CAMERA = CameraParams(dark_share=0.3, gain=(0.6, 1.1), gamma=(0.9, 1.5), contrast=(0.0, 0.7), jpeg_share=0.4)
_NIGHT = NightParams(
    ambient=(0.005, 0.25), lamps=(0, 6), far_lamps=(0, 25), exposure=(0.006, 0.15), shot_noise=(0.0, 0.0012),
    read_noise=(0.0, 0.003), streak_gain=(0.5, 4.0), drop_gain=(1.0, 6.0)
)  # fmt: skip
_STREAKS = StreakParams(
    angle=(-50.0, 50.0), angle_jitter=(0.0, 6.0), depths=(1, 4), brightness=(0.7, 2.0), modulation=0.15,
    veil_share=0.4, veil=(0.03, 0.5), veil_light=(0.3, 1.0), fan=(-15.0, 15.0), clumping=(0.0, 1.0), taper=(0.0, 1.0),
    code_share=0.5, added_share=0.3
)  # fmt: skip
_DRAWN = replace(_STREAKS, depths=(0, 1), drawn_share=1, veil_share=0)
_DROPS = DropParams(
    view=(0.3, 1.5), blades=(0, 9), sky=(0.0, 1.2), rim=(-0.6, 0.9), opacity=(0.7, 1.0), film_share=0.25,
    film=(0.7, 5.0), mist_share=0.4, mist=(0.05, 0.7), even=(0.0, 1.0), crowding=(1, 5)
)  # fmt: skip


def _kinds(part: str, base: StreakParams | DropParams, dark_share: float, *changes: dict) -> tuple[RainParams, ...]:
    """One table of ranges for each kind of rain."""
    camera = replace(_CAMERA, dark_share=dark_share)
    return tuple(
        RainParams(
            night=_NIGHT,
            camera=replace(camera, **change.pop("camera", {})),
            daylight=(0.1, 1.0),
            **{part: replace(base, **change)},
        )
        for change in changes
    )


_STREAK_KINDS = _kinds(
    "streaks",
    _STREAKS,
    0.3,
    # fine, sharp lines
    dict(length=(8, 70), width=(0.3, 1.2), density=(15, 300), opacity=(0.2, 0.95), sheets=(0, 1), sheet=(0.01, 0.15)),
    # few near ones, broad and out of focus, before far ones
    dict(length=(20, 110), width=(1.2, 4.5), density=(3, 60), opacity=(0.08, 0.6), angle=(-25, 25), taper=(0.3, 1)),
    # a downpour
    dict(length=(20, 120), width=(0.5, 2.2), density=(40, 350), opacity=(0.4, 1), depths=(2, 5), veil_share=0.5,
         sheets=(0, 1), sheet=(0.03, 0.4), drawn_share=0.3),
    # veiled distance, seen from a car
    dict(length=(10, 70), width=(0.4, 1.8), density=(10, 150), opacity=(0.15, 0.9), veil_share=1, veil=(0.2, 0.9),
         veil_depth=(0.2, 1), fan=(-45, 45)),
    # rain and fog on a street
    dict(length=(8, 60), width=(0.4, 1.5), density=(20, 250), opacity=(0.2, 0.9), veil_share=1, veil=(0.3, 0.95),
         veil_depth=(0.4, 1), veil_light=(0.25, 0.8), angle=(-25, 25), camera=dict(dark_share=0)),
    # sparse and thin, in a film: faint ones, and bright ones
    dict(length=(6, 50), width=(0.4, 1.4), density=(15, 200), opacity=(0.06, 0.95), depths=(1, 2), angle=(-20, 20),
         angle_jitter=(0, 3), veil_share=0.1, camera=dict(dark_share=0, jpeg_share=0.7)),
    # bright and sharp, in a film, seen before what is dark
    dict(length=(15, 75), width=(0.5, 2), density=(5, 100), opacity=(0.3, 0.95), depths=(1, 2), angle=(-20, 20),
         angle_jitter=(0, 2.5), brightness=(1, 2), veil_share=0.1, taper=(0, 0.7),
         camera=dict(dark_share=0, jpeg_share=0.7)),
    # faint and broad, in a film: they darken what is lighter than what they see
    dict(length=(20, 110), width=(1, 4.5), density=(3, 50), opacity=(0.08, 0.6), depths=(1, 2), angle=(-15, 15),
         angle_jitter=(0, 2), brightness=(0.25, 1.8), veil_share=0.1, taper=(0, 0.7),
         camera=dict(dark_share=0, jpeg_share=0.7)),
    # short exposures and splashes
    dict(length=(2, 14), width=(0.5, 2), density=(20, 300), opacity=(0.15, 0.9), angle_jitter=(0, 20)),
)  # fmt: skip
_DRAWN_KINDS = _kinds(
    "streaks",
    _DRAWN,
    0.0,
    # fine and dense, drawn before a scene of more contrast (Rain800)
    dict(length=(8, 45), density=(30, 800), opacity=(0.05, 0.5), width=(0.5, 1.5), angle=(-35, 35), sheets=(1, 2),
         sheet=(0.1, 0.6), grain=(0.8, 2.5), cover=(0.8, 1), grey=(0.6, 1), added_share=0.3,
         camera=dict(dark_share=0.9, gain=(0.8, 1.25), gamma=(0.9, 1.3), contrast=(0, 0.7))),
    # bright before the dark, as screened layers show it (Rain800)
    dict(length=(10, 60), density=(30, 800), opacity=(0.1, 0.7), width=(0.5, 2), sheets=(1, 2), sheet=(0.2, 0.9),
         grain=(0.8, 3), cover=(0.3, 1), grey=(0.8, 1), added_share=0.1),
    # one grey that darkens what is light (NiteDR)
    dict(length=(25, 70), density=(15, 300), opacity=(0.1, 0.5), width=(0.5, 1.5), sheets=(1, 2), sheet=(0.15, 0.6),
         grain=(0.9, 2.5), cover=(0.4, 0.95), grey=(0.55, 0.85), code_share=1, added_share=0),
    # sparse and added, thin (Rain100L)
    dict(length=(30, 90), density=(10, 100), opacity=(0.1, 0.7), width=(0.4, 1.2), angle=(-40, 40),
         angle_jitter=(0, 3), sheets=(1, 3), sheet=(0.08, 0.6), grain=(0.8, 2.5), cover=(0.05, 0.4), grey=(0.9, 1),
         added_share=1),
    # sparse and added, of many widths up to broad patches (Rain100L)
    dict(length=(30, 100), density=(5, 60), opacity=(0.1, 0.7), width=(0.8, 3), angle=(-40, 40), angle_jitter=(0, 3),
         sheets=(2, 4), sheet=(0.05, 0.6), grain=(1, 6), cover=(0.05, 0.35), grey=(0.9, 1), added_share=1),
    # a downpour of flat lines in several directions, added (Rain100H)
    dict(length=(25, 110), depths=(0, 2), density=(20, 150), opacity=(0.2, 0.8), width=(0.5, 2), angle_jitter=(0, 4),
         sheets=(1, 3), sheet=(0.15, 0.65), grain=(0.8, 3.5), cover=(0.2, 0.9), full=(0.05, 0.8), crossing=0.4,
         grey=(0.9, 1), added_share=0.9),
    # a downpour, drawn
    dict(length=(20, 120), width=(0.6, 2.5), density=(60, 400), opacity=(0.3, 0.9), depths=(1, 3),
         angle_jitter=(0, 4), sheets=(0, 2), sheet=(0.05, 0.5), crossing=0.2, grey=(0.8, 1), added_share=0.8),
)  # fmt: skip
_DROP_KINDS = _kinds(
    "drops",
    _DROPS,
    0.3,
    # small ones a little out of focus
    dict(count=(60, 500), radius=(1.5, 7), defocus=(0.2, 1.2), highlight=(0.2, 4)),
    # discs and patches far out of focus
    dict(count=(40, 400), radius=(2, 8), defocus=(0.8, 3.5), highlight=(0.0, 12), merge=1.5),
    # large ones out of focus
    dict(count=(15, 150), radius=(5, 18), defocus=(0.4, 2.5), highlight=(0.0, 8)),
    # large pale discs and patches (RainDrop)
    dict(count=(8, 90), radius=(5, 30), defocus=(0.25, 1.2), opacity=(0.15, 0.8), rim=(-0.5, 0.3), even=(0.6, 1),
         highlight=(0.0, 1.5), merge=1.2, mist_share=0.7),
    # dark-rimmed ones on a windscreen
    dict(count=(8, 60), radius=(5, 45), defocus=(0.03, 0.4), highlight=(0, 2.5), rim=(0.4, 0.98), sky=(0, 0.6)),
)  # fmt: skip
REAL_RAIN = dict.fromkeys(("drs", "nrs"), _STREAK_KINDS + _DRAWN_KINDS) | dict.fromkeys(("drd", "nrd"), _DROP_KINDS)
"""Rain type → kinds of rain that photographs of real rain and public test sets show, for training: each has ranges of
its own, and every pair draws one of them."""
