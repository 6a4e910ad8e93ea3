"""The comparison of a converted tokenizer with the slow one it was made from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from engine.errors import ExportError
from engine.export.sentences import SENTENCES

# One sentence in many scripts, and what normalizations and spaces can do to a text.
SCRIPTS = (
    "Všetci ľudia sa rodia slobodní a rovní čo do dôstojnosti i práv.",
    "Wszyscy ludzie rodzą się wolni i równi, Šta će biti? Þeir eru fæddir frjálsir.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.",
    "Бүх хүн эрх чөлөөтэй, адил тэгш. Ґанок, їжак, ўсе.",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար։",
    "כל בני האדם נולדו בני חורין ושווים.",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "تمام افراد بشر آزاد به دنیا می‌آیند. سب انسان آزاد ہیں۔",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "সমস্ত মানুষ স্বাধীনভাবে জন্মগ্রহণ করে।",
    "ਸਾਰੇ ਮਨੁੱਖ ਆਜ਼ਾਦ ਜਨਮ ਲੈਂਦੇ ਹਨ। બધા માણસો સ્વતંત્ર જન્મે છે.",
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "మనుష్యులందరూ స్వేచ్ఛగా జన్మించారు. ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರು. മനുഷ്യരെല്ലാം സ്വതന്ത്രരാണ്.",
    "සියලු මිනිසුන් නිදහස්ව උපත ලබති.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "ມະນຸດທຸກຄົນເກີດມາມີອິດສະຫຼະ။ လူတိုင်းသည် လွတ်လပ်စွာ မွေးဖွားသည်။",
    "ყველა ადამიანი იბადება თავისუფალი.",
    "የሰው ልጅ ሁሉ ሲወለድ ነጻ ነው።",
    "មនុស្សទាំងអស់កើតមកមានសេរីភាព។",
    "すべての人間は、生れながらにして自由であり、ﾊﾝｶｸ カナ。",
    "人人生而自由,在尊严和权利上一律平等。臺灣、龍、龘。",
    "모든 인간은 태어날 때부터 자유로우며 평등하다.",
    " leading and trailing, two  spaces\tand\na line\r\nbreak, \u00a0hard\u3000wide\u200bzero ",
    "ﬁ ligature, Ｆｕｌｌ ｗｉｄｔｈ, ½ ² ㎏ ™ … „quotes“ «guillemets» ′ — –",
    "e\u0301 composed and decomposed é, か\u3099, \u1112\u1161\u11ab",
    "<s> </s> <pad> <unk> <mask> as text, \u2581 and a\u2581b, {json: [1, 2]}",
    "",
    "   ",
    "👩\u200d👩\u200d👧 🇩🇪 ✈\ufe0f",
)
_LINES = 300


def check(slow: Any, fast: Any, pieces: Sequence[str]) -> None:
    """Compare ids of texts and texts of ids: `SENTENCES`, `SCRIPTS`, lines of the vocabulary's own
    pieces, and random ids.

    Args:
        pieces: Those that a text can be cut into.

    Raises:
        ExportError: They differ.
    """
    draw = random.Random(0)
    lines = [
        "".join(draw.choices(pieces, k=draw.randint(1, 30))).replace("\u2581", " ")
        for _ in range(_LINES)
    ]
    lines += [*SENTENCES, *SCRIPTS]
    different = sum(fast(line).input_ids != slow(line).input_ids for line in lines)
    if different:
        raise _differs(slow, f"other ids for {different} of {len(lines)} lines")
    rows = [[draw.randrange(len(slow)) for _ in range(draw.randint(1, 20))] for _ in range(_LINES)]
    settings = {"skip_special_tokens": True}
    different = sum(fast.decode(row, **settings) != slow.decode(row, **settings) for row in rows)
    if different:
        raise _differs(slow, f"another text for {different} of {len(rows)} rows of ids")


def _differs(slow: Any, how: str) -> ExportError:
    return ExportError(
        f"{type(slow).__name__} has no fast form in transformers, and converted for the "
        f"tokenizers library it gives {how}",
        "export another checkpoint of the family, and please report this one",
    )
