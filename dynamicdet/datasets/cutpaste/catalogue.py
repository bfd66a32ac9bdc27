"""The reviewed images: which cut-outs form which class, and which photographs serve as backgrounds.

Every cut-out named here was looked at (a photograph with a clean outline, not a drawing), and its origin was read in
the package's change log. Stamps are left out if their origin is unclear or their licence does not combine with the GPL:
those from Wikipedia without a stated licence, those under the GFDL, CC BY 2.5, CC BY-SA 2.5 or 3.0, and those from
stock.xchng. `benchmarks/demo/LICENSES.md` names sources, licences and authors.
"""

from __future__ import annotations

from dataclasses import dataclass

CUTOUT_PACKAGE = "tuxpaint-stamps-default"
BACKGROUND_PACKAGES = ("lomiri-wallpapers-16.04", "mate-backgrounds", "plasma-workspace-wallpapers")
PACKAGES = (CUTOUT_PACKAGE, *BACKGROUND_PACKAGES)

_STAMPS = "tuxpaint/stamps"


@dataclass(frozen=True)
class ObjectClass:
    """A class of objects: its cut-outs (paths below ``share``) by kind, and how they may be turned.

    A quarter of each kind is reserved for validation, so a class of several kinds keeps some of every one.
    """

    name: str
    kinds: tuple[tuple[str, ...], ...]
    max_rotation: float = 12.0  # degrees to either side
    may_flip: bool = True  # a mirrored sign is another sign

    @property
    def cutouts(self) -> tuple[str, ...]:
        """The cut-outs of all kinds."""
        return tuple(name for kind in self.kinds for name in kind)


def _stamps(**folders: str) -> tuple[str, ...]:
    """Paths of stamps; a keyword is a folder with ``__`` for ``/``, its value the names in it."""
    return tuple(
        f"{_STAMPS}/{folder.replace('__', '/')}/{name}.png"
        for folder, names in folders.items()
        for name in names.split()
    )


# Broad classes, because there are few cut-outs of each kind.
CLASSES = (
    ObjectClass(
        "animal",
        (
            _stamps(
                animals__birds="adelaide-rosella blackbird chicken_profile crow crowned_crane cuckoo drake duck "
                "gander guineafowl hen lark little-penguin magellanic_penguin magpie nandou ostrich owl peacock "
                "penguin pigeon pink_flamingo quetzal rainbow-lorikeet rooster seagull silver-gull tucan turkey vulture"
            ),
            _stamps(
                animals__mammals="badger elephant ferret giraffe hippopotamus pig pig_golden pig_golden2 rabbit_little "
                "rhino_black wildboar",
                animals__mammals__apes="chimp gorilla",
                animals__mammals__bears="bear european-bear",
                animals__mammals__bovines="bison bull cow cow_white gnu-baby-stand gnu-baby gnu-sitting gnu-stand goat "
                "indian_blackbuck mountaingoat ram sheep sheep_lamb yak zebu",
                animals__mammals__camel="camel dromedary",
                animals__mammals__cats="lion-2 lion tiger tiger_sumatran",
                animals__mammals__deer="caribou deer doe wapiti",
                animals__mammals__dogs="dingo dog fox",
                animals__mammals__equines="donkey donkey_eating horse zebra",
                animals__mammals__rodents="beaver capybara marmot mouse rabbit-2 rabbit rat squirrel",
                animals__marsupials="kangaroo koala wombat",
            ),
        ),
    ),
    ObjectClass(
        "fish",
        (
            _stamps(
                animals__fish="bluegroper butterflyfish clownfish coraltrout dolphinfish lionfish moonwrasse "
                "stripedfish"
            ),
        ),
    ),
    ObjectClass(
        "food",
        (
            _stamps(
                food__fruit="apple_fuji apple_granny_smith apple_green apple_red apple_sierra_beauty avocado banana "
                "cherimoya kiwi lemon mandarine mango orange orange_seville pear pomegranate raspberry strawberry",
            ),
            _stamps(
                food__vegetables="broccoli carrot chilepepper corn eggplant garlic garlics lettuce mushroom onion "
                "pattypan_squash pepper potato pumpkin_small redlettuce yam yellowpepper",
            ),
        ),
        max_rotation=30,
    ),
    ObjectClass(
        "flower",
        (
            _stamps(
                plants__flowers="anemone_red daffodil flower1 flower2 flower3 flower4 flower5 flower6 flower7 flower8 "
                "flower9 flower10 iris marigold pigface red-gazania rose whitestar-petunia yellow-flower"
            ),
        ),
        max_rotation=30,
    ),
    ObjectClass(
        "vehicle",
        (
            _stamps(
                vehicles="garbagetruck",
                vehicles__auto="beetle sedan sportscar2 truck",
                vehicles__construction="dumper",
                vehicles__cycle="pink_tricycle",
                vehicles__masstransit="green_korean_bus",
                vehicles__race="indycar",
                military__vehicles="bradley",
            ),
        ),
    ),
    ObjectClass(
        "sign",
        (
            _stamps(
                town__roadsigns="dead_end_sign give_way_sign no_entry_sign no_uturn roundabout school_sign stop "
                "toilets xing_ped xing_school yield"
            ),
        ),
        may_flip=False,
    ),
)

# Objects of no class: a detector must learn to ignore them. Nothing that belongs to a class in everyday words is here.
CLUTTER = ObjectClass(
    "",
    (
        _stamps(
            clothes="clothespin_new clothespin_old",
            hobbies="binoculars camera_35mm",
            household="cylinder garbagecan home_compost_bin kettle key toilet wheelie_bin",
            household__arttools="pen_dryerase",
            household__dishes="pitcher_small teapot",
            household__dishes__utensils="pepper_grinder",
            plants__trees="holm_oak liberia-palm pinecone tree336",
            medical="stethoscope",
            seasonal__christmas="Candy_cane_photo_1 Christmas_Tree_photo xmaswreath",
            sports="football soccer trophy_cup",
            town="uk_post_box usps_mailbox",
            vehicles="wheel_tractor",
        ),
        _stamps(
            household__tools="hammer mallet_metal measuring_tape paintbrush_large plyers saw wrench wrench_adjustable "
            "wrench_plumbers",
            household__arttools="scissors_small_closed scissors_small_open",
            household__dishes__utensils="nutcracker",
        ),
    ),
    max_rotation=25,
)

# A folder stands for the largest image in it: KDE ships each wallpaper in a dozen sizes.
BACKGROUNDS = (
    "backgrounds/Bridge_by_Sander_Klootwijk.jpg",
    "backgrounds/Dragonfly_by_Bolly.jpg",
    "backgrounds/Wine_by_Jakkub_Mede.jpg",
    "backgrounds/aitzgorri_by_Aitzol_Berasategi.jpg",
    "backgrounds/greentock_by_Peter_Nerlich.jpg",
    "backgrounds/life_by_Aitzol_Berasategi.jpg",
    "backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg",
    "backgrounds/sunset_by_Aitzol_Berasategi.jpg",
    "backgrounds/mate/nature/Aqua.jpg",
    "backgrounds/mate/nature/Blinds.jpg",
    "backgrounds/mate/nature/Dune.jpg",
    "backgrounds/mate/nature/GreenMeadow.jpg",
    "backgrounds/mate/nature/RainDrops.jpg",
    "backgrounds/mate/nature/Storm.jpg",
    "backgrounds/mate/nature/Wood.jpg",
    "wallpapers/BytheWater/contents/images",
    "wallpapers/ColdRipple/contents/images",
    "wallpapers/ColorfulCups/contents/images",
    "wallpapers/DarkestHour/contents/images",
    "wallpapers/EveningGlow/contents/images",
    "wallpapers/FallenLeaf/contents/images",
    "wallpapers/Grey/contents/images",
    "wallpapers/Kite/contents/images",
    "wallpapers/OneStandsOut/contents/images",
    "wallpapers/Path/contents/images",
    "wallpapers/summer_1am/contents/images",
)
