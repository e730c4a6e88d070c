"""The nameable things that icons show: a name, a code point of Unicode, a category.

One thing in seven is held out: it occurs in the splits for new things and nowhere else, training included.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """What an icon shows; `code` is its code point, in hexadecimal."""

    name: str
    category: str
    code: str
    held_out: bool


# Adding to or removing from this table changes what is held out: raise dataset.VERSION.
_TABLE = {
    "animal": """
        dog:1f436 wolf:1f43a fox:1f98a raccoon:1f99d cat:1f431 lion:1f981 tiger:1f42f horse:1f434
        unicorn:1f984 zebra:1f993 cow:1f42e pig:1f437 sheep:1f411 goat:1f410 camel:1f42a giraffe:1f992
        elephant:1f418 rhino:1f98f hippo:1f99b mouse:1f42d rabbit:1f430 squirrel:1f43f hedgehog:1f994
        bat:1f987 bear:1f43b koala:1f428 panda:1f43c kangaroo:1f998 badger:1f9a1 turkey:1f983
        rooster:1f413 chick:1f424 penguin:1f427 eagle:1f985 duck:1f986 swan:1f9a2 owl:1f989 flamingo:1f9a9
        peacock:1f99a parrot:1f99c frog:1f438 crocodile:1f40a turtle:1f422 lizard:1f98e snake:1f40d
        dragon:1f432 whale:1f433 dolphin:1f42c fish:1f41f shark:1f988 octopus:1f419 snail:1f40c
        butterfly:1f98b caterpillar:1f41b ant:1f41c bee:1f41d ladybug:1f41e spider:1f577 scorpion:1f982
        monkey:1f435 gorilla:1f98d crab:1f980 lobster:1f99e shrimp:1f990 squid:1f991 seal:1f9ad
        beaver:1f9ab otter:1f9a6 sloth:1f9a5
    """,
    "food": """
        melon:1f348 watermelon:1f349 orange:1f34a lemon:1f34b banana:1f34c pineapple:1f34d mango:1f96d
        apple:1f34e pear:1f350 peach:1f351 strawberry:1f353 kiwi:1f95d tomato:1f345 coconut:1f965
        avocado:1f951 eggplant:1f346 potato:1f954 carrot:1f955 corn:1f33d pepper:1f336 cucumber:1f952
        broccoli:1f966 garlic:1f9c4 onion:1f9c5 mushroom:1f344 peanut:1f95c chestnut:1f330 bread:1f35e
        croissant:1f950 baguette:1f956 pretzel:1f968 bagel:1f96f waffle:1f9c7 cheese:1f9c0 steak:1f969
        bacon:1f953 hamburger:1f354 pizza:1f355 sandwich:1f96a taco:1f32e burrito:1f32f egg:1f95a
        salad:1f957 popcorn:1f37f butter:1f9c8 sushi:1f363 doughnut:1f369 cookie:1f36a cake:1f382
        cupcake:1f9c1 pie:1f967 chocolate:1f36b candy:1f36c lollipop:1f36d honey:1f36f
    """,
    "drink": """
        milk:1f95b wine:1f377 cocktail:1f378 beer:1f37a
    """,
    "thing": """
        teapot:1fad6 anchor:2693 parachute:1fa82 umbrella:2602 snowman:26c4 globe:1f30d purse:1f45b
        handbag:1f45c backpack:1f392 lipstick:1f484 ring:1f48d gem:1f48e bell:1f514 radio:1f4fb
        telephone:260e laptop:1f4bb keyboard:2328 printer:1f5a8 television:1f4fa camera:1f4f7 candle:1f56f
        lamp:1f4a1 flashlight:1f526 lantern:1f3ee book:1f4d5 newspaper:1f4f0 envelope:2709 package:1f4e6
        mailbox:1f4ea clipboard:1f4cb calendar:1f4c5 folder:1f4c1 pin:1f4cc telescope:1f52d
        microscope:1f52c syringe:1f489 pill:1f48a thermometer:1f321 door:1f6aa bed:1f6cf couch:1f6cb
        chair:1fa91 toilet:1f6bd shower:1f6bf bathtub:1f6c1 soap:1f9fc sponge:1f9fd basket:1f9fa
        clock:23f0 hourglass:231b watch:231a balloon:1f388 gift:1f381 puzzle:1f9e9 robot:1f916 ghost:1f47b
        alien:1f47d skull:1f480 bomb:1f4a3 compass:1f9ed map:1f5fa mirror:1fa9e window:1fa9f spoon:1f944
        bowl:1f963 cup:2615 bone:1f9b4 tooth:1f9b7 eye:1f441 ear:1f442 nose:1f443 flag:1f6a9 coin:1fa99
        money:1f4b0 barrel:1f6e2 wheel:1f6de abacus:1f9ee yarn:1f9f6
    """,
    "plant": """
        cactus:1f335 tree:1f333 palm:1f334 tulip:1f337 rose:1f339 sunflower:1f33b clover:1f340 leaf:1f341
        bouquet:1f490
    """,
    "vehicle": """
        train:1f682 tram:1f68a bus:1f68c ambulance:1f691 taxi:1f695 car:1f697 truck:1f69a tractor:1f69c
        motorcycle:1f3cd scooter:1f6f5 bicycle:1f6b2 sailboat:26f5 canoe:1f6f6 ship:1f6a2 airplane:2708
        helicopter:1f681 rocket:1f680
    """,
    "sport": """
        skateboard:1f6f9 football:1f3c8 basketball:1f3c0 baseball:26be volleyball:1f3d0 sled:1f6f7
        kite:1fa81 trophy:1f3c6 medal:1f3c5 target:1f3af
    """,
    "place": """
        castle:1f3f0 church:26ea tent:26fa fountain:26f2 factory:1f3ed house:1f3e0 hospital:1f3e5
        bank:1f3e6 stadium:1f3df bridge:1f309 volcano:1f30b island:1f3dd tower:1f5fc
    """,
    "sky": """
        moon:1f319 sun:1f31e star:2b50 cloud:2601 rainbow:1f308 comet:2604 fire:1f525 tornado:1f32a
        snowflake:2744
    """,
    "instrument": """
        trumpet:1f3ba guitar:1f3b8 violin:1f3bb drum:1f941 saxophone:1f3b7 accordion:1fa97 banjo:1fa95
        piano:1f3b9 microphone:1f3a4
    """,
    "clothing": """
        tie:1f454 shirt:1f455 scarf:1f9e3 coat:1f9e5 dress:1f457 kimono:1f458 shoe:1f45e sneaker:1f45f
        boot:1f462 crown:1f451 hat:1f3a9 helmet:26d1
    """,
    "tool": """
        hammer:1f528 axe:1fa93 pickaxe:26cf saw:1fa9a wrench:1f527 screwdriver:1fa9b knife:1f52a key:1f511
        lock:1f512 magnet:1f9f2 ladder:1fa9c hook:1fa9d toolbox:1f9f0 broom:1f9f9 bucket:1faa3 brush:1f58c
        pencil:270f pen:1f58a ruler:1f4cf needle:1faa1
    """,
}

THINGS = tuple(
    Thing(name, category, code, index % 7 == 3)
    for category, entries in _TABLE.items()
    for index, (name, code) in enumerate(entry.split(":") for entry in entries.split())
)
NAMES = frozenset(thing.name for thing in THINGS)
KNOWN = tuple(thing for thing in THINGS if not thing.held_out)
HELD_OUT = tuple(thing for thing in THINGS if thing.held_out)

# Categories that are asked for by name: those about whose members nobody argues.
CATEGORIES = {"animal": "animals", "vehicle": "vehicles", "instrument": "musical instruments"}

_NO_ARTICLE = frozenset(
    {
        "bacon",
        "beer",
        "bread",
        "broccoli",
        "butter",
        "candy",
        "chocolate",
        "corn",
        "fire",
        "garlic",
        "honey",
        "milk",
    }
    | {"money", "popcorn", "salad", "soap", "steak", "sushi", "wine", "yarn"}
)
_PLURALS = {"mouse": "mice", "wolf": "wolves", "knife": "knives", "leaf": "leaves", "tooth": "teeth"}
_ALIKE = frozenset(["fish", "sheep", "shrimp", "squid"])
_WITH_ES = ("s", "x", "ch", "sh")


def with_article(name: str) -> str:
    """The name with "a", "an" or, if it cannot be counted, nothing."""
    if name in _NO_ARTICLE:
        return name
    return f"{'an' if name[0] in 'aeio' or name == 'umbrella' else 'a'} {name}"


def plural(name: str) -> str | None:
    """The plural, or None if the thing cannot be counted."""
    if name in _NO_ARTICLE:
        return None
    if name in _ALIKE:
        return name
    if name in _PLURALS:
        return _PLURALS[name]
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    if name in ("potato", "tomato", "mango", "volcano", "tornado"):
        return f"{name}es"
    return f"{name}{'es' if name.endswith(_WITH_ES) else 's'}"
