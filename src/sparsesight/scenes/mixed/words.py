"""The words that are written in pictures; one in six is held out, for the splits of new words."""

_LIST = """
able acid aim arch area army atom aunt award baby back bake balance ball band bark barn base bath beach beam
belt bench best birth black blade blow board boat body bold border boss bottle brave break brick bright bring
brown build burn bush busy cabin cable calm camp canal care cart case cash cast cave chain chalk chance change
chart chase cheap check cheek chief child choice city claim class clean clear clerk cliff climb cloth coal
coast code cold color comb cool copper copy core corner cost cotton count court cover craft cream crew crop
cross crowd curve dance danger dark date dawn deal deep delta depth desk detail dinner dirt dish dock double
draft dream drift drive drop dust duty early earth east easy echo edge empty energy engine enter equal event
exit extra face fact farm fast father fence fever field fight film final finger flame flat fleet float floor
flour flow focus force forest form fort frame free fresh friend front fruit fuel game garden gate giant glass
gold grace grain grand grass gray great grid group guard guest guide habit half hall hand happy harbor hard
heart heavy height hill hole home honest hope hotel hour huge human ice idea inch index inner iron item ivory
jacket jade join joke judge juice jump jungle keen kind king kitchen knot label lake land laser late laugh law
layer lead learn level light limit line link list little local long loop loud lucky lunch magic main major
march mark market master match matter meadow metal mile mind mine mint model moment month morning motor mount
mouth movie mud music nail narrow nation navy near neck nerve nest night noble noise north note novel ocean
office oil open orbit order organ origin other oven owner oxygen page paint pair panel paper park part party
past path peak pearl phase photo piece pilot pink place plain plan plate plot point pole pond pool port post
power press price prime print prize proof proud pulse pump pupil queen quick quiet race rain range rank rapid
ratio reach ready relay rest rice rich ride river road rock roof room root rope rough round route royal rule
rural safe sail salt sand scale scene school score sea seat seed sense shade shape share shelf shell shift
shine shop shore short sign signal silk silver simple sister site skill skin sleep slope smart smile smoke
smooth snow soft soil solid song south space speed spring stage stairs stamp stand start state station steam
steel stem step stick stone store storm story street string strong studio style sugar summer supply surface
sweet swift switch system table tail talk tank tape task taste tea team test theme theory thick thin thread
tide timber time tiny title tone topic torch total touch tour town track trade trail travel treat trend trial
tribe true trust tube tune turn twin uncle under union unit upper urban valley value vapor vast view village
visit vital voice wagon wait walk wall warm wash water wave wax way wealth weather week weight west whole wide
wild wind winter wire wise wish wood wool word work world worth yard year young youth zone
"""
# What is held out follows from the order: raise dataset.VERSION with any change.
WORDS = tuple(_LIST.split())
HELD_OUT_WORDS = WORDS[4::6]
KNOWN_WORDS = tuple(word for index, word in enumerate(WORDS) if index % 6 != 4)
LONGEST_LABEL = 5  # letters of a word under a bar or in a table


def short(words: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the words that fit under a bar."""
    return tuple(word for word in words if len(word) <= LONGEST_LABEL)
