"""Which language a text is in, as far as finding names needs it: by its script, and by its commonest words."""

from __future__ import annotations

import re
from collections import Counter

SEEN = 20_000
"""Characters that a language is known by."""
_WORD = re.compile(r"[^\W\d_]+")
UNSPACED = re.compile(r"[\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")
"""Han and kana: words without spaces between them."""


def listed(words: str) -> frozenset[str]:
    """Words, written one after the other."""
    return frozenset(words.split())


STOP: dict[str, frozenset[str]] = {
    "en": listed("""
        a about above across actually after again against ago all almost along already also although always am
        among an and another any anyone anything are aren't around as ask asked at away back be became because
        become been before began behind being below between both but by came can can't cannot come could
        couldn't day did didn't different do does doesn't doing don't done down during each either else end
        enough especially etc even ever every everybody everyone everything few find first five for former four
        from further gave get gets getting give given go goes going gonna good got great guess had has hasn't
        have haven't having he he'd he'll he's hello her here here's hers herself hi him himself his how however
        i i'd i'll i'm i've if in including indeed instead into is isn't it it'd it'll it's its itself just keep
        kind kinda knew know known last later least less let let's like little look lot lots made make makes
        making many may maybe me mean means meanwhile might more moreover most much must my myself near need
        neither never new next no nobody nor not nothing now of off often oh ok okay old on once one only onto
        or other others our ours out over own part people perhaps please put quite rather really right said same
        saw say saying says second see seem seems seen several shall she she'd she'll she's should shouldn't
        show since so some somebody someone something sometimes soon still such super sure take taken tell than
        thank thanks that that'll that's the their theirs them themselves then there there's therefore these
        they they'd they'll they're they've thing things think third this those though thought three through
        throughout thus time times to today together told too took toward towards two under unless until unto up
        upon us use used using usually various very via wanna want wanted wants was wasn't way ways we we'd
        we'll we're we've well went were weren't what what's whatever when where whether which while who who's
        whole whom whose why will with within without won't would wouldn't yeah year years yes yet you you'd
        you'll you're you've your yours yourself
    """),
    "de": listed("""
        aber alle als also am an auch auf aus bei beim bin bis bist da dabei damit dann das dass daß dem den
        denn der des die dies diese diesem diesen dieser dieses doch dort du durch ein eine einem einen einer
        eines er es etwa euch für gegen hat hatte haben hier ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in
        ins ist ja jede jeder jedes kann kein keine können man mehr mein mit muss nach nicht noch nun nur ob
        oder ohne schon sehr sein seine seinem seinen seiner seit sich sie sind so über um und uns unser unter
        viele vom von vor war waren was weil wenn wer werden wie wieder wir wird worden wurde wurden zu zum zur
        zwischen
    """),
    "fr": listed("""
        à afin ai ainsi après au aucun aussi autre aux avait avant avec avoir c ce ceci cela celle ces cet cette
        ceux chaque comme d dans de depuis des deux donc dont du elle elles en encore entre est et étaient était
        être eu eux fait fut il ils j je jusqu l la le les leur leurs lors lui m ma mais me même mes moi mon n
        ne nos notre nous on ont ou où par pas pendant peu peut plus pour qu quand que quel quelle qui quoi s sa
        sans se selon sera ses si soit son sont sous sur ta te tes toi ton tous tout toute très tu un une vers
        vos votre vous y
    """),
    "es": listed("""
        a al algo ante antes aquel aquella así aún aunque bajo bien cada como con contra cual cuando de del
        desde donde dos durante e el él ella ellas ellos en entre era eran es esa ese eso esta está están este
        esto estos fue fueron ha había han hasta hay la las le les lo los más me mi muy ni no nos nosotros o os
        otra otro para pero poco por porque pues que qué quien se sea según ser si sí sido sin sobre solo son su
        sus también tan tanto te tiene todo todos tras tu un una uno unos y ya yo
    """),
    "it": listed("""
        a ad agli ai al alla alle allo anche ancora avere aveva c che chi ci come con contro cui d da dagli dai
        dal dalla dei del della delle dello di dopo dove due e è ed era erano essere fra fu furono gli ha hanno
        i il in io l la le lei lo loro lui ma me mi molto nei nel nella nelle noi non nostro o ogni per perché
        più poi prima qual quale quando quella quello questa questo se senza si sia sono sotto stata stato su
        sua sue sugli sul sulla suo tra tutti tutto un una uno voi
    """),
    "pt": listed("""
        a ao aos aquele as até com como da das de dela dele do dos e é ela elas ele eles em entre era eram essa
        esse esta está este eu foi foram há isso já lhe mais mas me mesmo meu muito na não nas nem no nos nossa
        nosso num o os ou para pela pelas pelo pelos por qual quando que quem se sem ser seu seus só sobre sua
        suas também te tem um uma você
    """),
    "nl": listed("""
        aan al alle als andere bij daar dan dat de der deze die dit doch door dus een en er ge geen had heb
        hebben heeft het hier hij hoe hun ik in is ja je kan kon maar me meer men met mij mijn moet na naar niet
        nog nu of om omdat onder ons ook op over te tegen toch toen tot u uit uw van veel voor want waren was
        wat we wel werd wie wij worden wordt zal ze zich zij zijn zo zonder zou
    """),
    "ru": listed("""
        а без более больше будет бы был была были было быть в вам вас весь во вот все всего всех вы где да даже
        для до его ее её если есть еще ещё же за здесь и из или им их к как ко когда который которая которые кто
        ли между меня мне может мы на над надо нас не него нее неё нет ни них но ну о об однако он она они оно
        от по под после потом при про раз с сам себя со так также там тем то тогда того тоже только том ты у уже
        хотя чего чем через что чтобы эта эти это этого этой этом этот я
    """),
    "ar": listed("""
        أن أو أي إذا إلا إلى إن التي الذي الذين الى ان او أما أنه أنها بعد بن بين تم ثم حتى حيث خلال ذلك سوف عام
        عبر عن عند على غير فقد في فيه فيها قال قبل قد كان كانت كل كما لا لدى لقد لكن لم لن له لها ليس ما مع من
        منذ منه منها نحو هذا هذه هم هناك هو هي و ولا ولم وفي وقد وكان وهو وهي يتم يمكن
    """),
    "he": listed("""
        אבל או אולי אותו אותה אחר אחרי אך אל אלא אלה אם אנחנו אני אף את אתה בו בין גם הוא היא היה היו היתה הם הן
        הנה זאת זה זו יש כדי כי כל כמו כן לא להיות לו לי לפני מאוד מה מי מן עד עוד על עם פי רק של שלו שלה שם
    """),
}
UNSPACED_STOP = frozenset("的了是在我和就不都也很你着这那他她它们与及或但而被把对从以于之其吗呢吧啊哦嗯并将么些哪谁")
"""Characters that words which name something seldom hold."""
_SCRIPTS = {"ru": ("\u0400", "\u04ff"), "ar": ("\u0600", "\u06ff"), "he": ("\u0590", "\u05ff")}


def language_of(text: str) -> str:
    """The language of a text, of those whose commonest words are known; "zh" for Han and kana, "" where none fits.

    >>> language_of("The comet was seen by a team of four."), language_of("彗星在三月被发现。"), language_of("12 + 3")
    ('en', 'zh', '')
    """
    part = text[:SEEN]
    unspaced = sum(map(len, UNSPACED.findall(part)))
    counted = Counter(word.casefold() for word in _WORD.findall(UNSPACED.sub(" ", part)))
    if unspaced > sum(counted.values()):
        return "zh"
    # A text of one line may have no common word; its script still says much.
    hits = {name: sum(counted[word] for word in common) for name, common in STOP.items()}
    for name, (first, last) in _SCRIPTS.items():
        hits[name] += sum(n for word, n in counted.items() if first <= word[0] <= last)
    best = max(hits, key=lambda name: (hits[name], name == "en"))
    return best if hits[best] else ""


def stop_words(language: str) -> frozenset[str]:
    """The commonest words of a language; English ones where it is not known."""
    return STOP.get(language, STOP["en"])
