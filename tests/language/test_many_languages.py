"""What profile `unicode` finds and does not find: texts in 28 languages, each entry decided by hand from the rules.

Found: ends at blanks, marks of any script, or between characters of scripts written without spaces.  Not found: half a
word, an inflected form, another case, or an end before a combining mark (half a syllable).
"""

from __future__ import annotations

import pytest

from worldclip.match import Matcher

# language -> (text, entries in it, entries that are not, separated by " | ")
TABLE = {
    "blanks, digits, emoji": ("red\u00a0\u3000 apple, the 2nd ❤️", "red apple | ❤️", "2 | ❤ | apple the"),
    "en": (
        'A "cat" (black), the dog\'s bed - made in the U.S. by Dr.\u00a0Who',
        "cat | black | dog | dog's bed | the dog | U | U.S. | Dr. | Dr. Who | s | made in",
        "ca | lack | Cat | bed made | in by | Wh",
    ),
    "de": (
        "Zwei Hunde spielen im Schnee,der Straßenbahn-Fahrer winkt.",
        "Hunde | im Schnee | der | Straßenbahn | Fahrer | Straßenbahn-Fahrer | Schnee,der",
        "Hund | Bahn | bahn | strassenbahn | hunde | Zwei spielen",
    ),
    "fr": (
        "L'homme à l'e\u0301charpe bleue regarde la tour  Eiffel !",
        "homme | écharpe | l' | l'écharpe bleue | tour Eiffel | L | à | !",
        "charpe | eiffel | e | tou | Eiff",
    ),
    "es": (
        "¿Dónde está el niño? ¡En la playa!",
        "Dónde | está el niño | niño | En la playa | ¿Dónde | playa!",
        "esta | donde | play | niñ | niño En",
    ),
    "it": (
        "Un'automobile rossa dell'uomo: «Ferrari».",
        "automobile rossa | uomo | Ferrari | dell'uomo | «Ferrari» | Un",
        "auto | mobile | ferrari | dell uomo | un",
    ),
    "cs": (
        "Dívka s červeným deštníkem; psi/kočky",
        "červeným deštníkem | psi | kočky | s | psi/kočky | Dívka",
        "deštník | pes | kočka | dívka | cervenym",
    ),
    "ru": (
        "Рыжая кошка («Мурка») спит на диване…",
        "кошка | Мурка | на диване | Рыжая кошка | спит",
        "кошк | мурка | диван | рыжая | кошка спит",
    ),
    "uk": (
        "Дівчина з яблуками біля м'яча та пір\u2019я",
        "яблуками | м'яча | м | яча | пір\u2019я | пір | біля м'яча",
        "яблук | пір'я | дівчина | м'яч",
    ),
    "el": ("Η γάτα\u0387 ο σκύλος; ΓΑΤΑ", "γάτα | σκύλος | ΓΑΤΑ | γάτα· ο | ο σκύλος;", "σκύλο | γατα | η γάτα | ΓΆΤΑ"),
    "tr": (
        "Kedi'nin oyuncağı, İstanbul'da bir köpek ve kediler.",
        "Kedi | İstanbul | köpek | kediler | da | bir köpek",
        "kedi | oyuncak | Istanbul | istanbul | kedil",
    ),
    "vi": (
        "Con me\u0300o đen ngồi trên ghế, cạnh cửa sổ.",
        "mèo | mèo đen | ghế | cửa sổ | Con mèo",
        "meo | me | gh | cửa s | con",
    ),
    "ar": ("قطة، كلب؛ هل هذا حصان؟", "قطة | كلب | حصان | هل هذا حصان", "قط | صان | قطة كلب | هذا كلب"),
    "fa": (
        "گربه\u200cها و سگ، «کتاب» روی میز۔",
        "گربه | ها | گربه\u200cها | سگ | کتاب | روی میز",
        "گربهها | می | تاب | سگ کتاب",
    ),
    "he": ('חתול (שחור), הכלב; "בית".', "חתול | שחור | הכלב | בית | (שחור)", "כלב | חתו | בי | חתול שחור"),
    "hi": ("यह बिल्ली है। काला कुत्ता, लाल सेब॥", "बिल्ली | काला कुत्ता | लाल सेब | सेब | है", "बिल | बिल्ल | बिल् | काल | कुत्त | ल"),
    "bn": ("একটি বি\u09dcাল। কালো কুকুর", "বি\u09a1\u09bcাল | কালো কুকুর | একটি", "বি\u09a1 | বি\u09dc | কুকু | কাল"),
    "ta, inflected": ("பூனைகள்", "பூனைகள்", "பூனை"),
    "ta": ("பூனை, நாய்; மரம்.", "பூனை | நாய் | மரம் | பூனை,", "நாய | பூ | மரம | ூனை"),
    "ka": ("კატა, ძაღლი — ხე", "კატა | ძაღლი | ხე", "ძაღლ | კატ | აღლი"),
    "hy": ("կատու։ շուն՝ ծառ", "կատու | շուն | ծառ | կատու։", "կատ | ատու | Կատու"),
    "am": ("ድመት። ውሻ፣ዛፍ", "ድመት | ውሻ | ዛፍ | ውሻ፣ዛፍ", "ድመ | መት | ድመት ውሻ"),
    "ko": (
        '고양이와 개가 "\u1100\u1169\u11bc\u110b\u116f\u11ab"에서 (놀아요).',
        "고양이와 | 개가 | 공원 | 놀아요 | 에서",
        "고양이 | 개 | 놀아 | 원 | 공원에서",
    ),
    "th": ("แมวดำนั่งบนโต๊ะ", "แมว | แมวดำ | ดำ | นั่ | นั่ง | บน | โต๊ะ | บนโต๊ะ | มว", "นั | โต | น้ำ | แมว ดำ | นัง"),
    "lo": ("ແມວດຳນັ່ງ", "ແມວ | ແມວດຳ | ນັ່ງ", "ນັ | ມາ | ແມວ ດຳ"),
    "km": ("ឆ្មាខ្មៅអង្គុយ", "ឆ្មា | ខ្មៅ | អង្គុយ | ឆ្មាខ្មៅ", "ឆ្ម | ឆ | ខ | អង្គ"),
    "my": ("ကြောင်နက်", "ကြော | ကြောင် | နက် | ကြောင်နက်", "က | ကြောင | န်"),
    "bo": ("ཞི་མི་ནག་པོ།", "ཞི་མི | ནག་པོ | ནག | ཞི | ཞི་མི་", "ཞ | མིག | པ"),
    "zh": (
        "一只黑猫坐在2個红苹果旁边,很Good。",
        "黑猫 | 猫 | 2個 | 2 | 红苹果 | 苹果旁边 | Good | 很Good | 一",
        "黑狗 | 红 苹果 | Goo | ood | good",
    ),
    "ja": (
        "黒いねこのカメラ、Nikonの写真ｶﾒﾗとか\u3099っこう",
        "ねこ | カメラ | メラ | Nikon | の写真 | ｶﾒﾗ | がっこう | 黒いねこ",
        "か | Niko | ニコン | ネコ | かっこう | カメラ Nikon",
    ),
}


@pytest.mark.parametrize("lang", TABLE)
def test_unicode_profile_finds_the_entries_a_reader_finds(lang):
    text, in_it, not_in_it = TABLE[lang]
    found, not_found = in_it.split(" | "), not_in_it.split(" | ")
    entries = [*found, *not_found]
    assert [entries[i] for i in Matcher.build(entries, "unicode").match(text)] == found
