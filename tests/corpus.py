"""Texts and values that a store has been known to change, and those that are no JSON, each as the bytes of its JSON."""

# ruff: noqa: RUF001  # letters that look like others are the point
from unicodedata import normalize

from hypothesis import strategies as st

SPOKEN = {
    "english": "Good morning, what is a monad?",
    "german": "Größe, Fußgänger, Straße",
    "turkish": "İstanbul ılık ışık",
    "vietnamese": "Tiếng Việt có dấu",
    "greek": "Ὦ ξεῖν᾽, ἀγγέλλειν",
    "russian": "Съешь ещё этих мягких французских булок",
    "hebrew": "שָׁלוֹם עֲלֵיכֶם",
    "arabic": "السَّلَامُ عَلَيْكُمْ",
    "persian with a zero-width non-joiner": "می\u200cخواهم",
    "hindi": "क्षत्रिय नमस्ते",
    "tamil": "வணக்கம்",
    "thai": "สวัสดีครับ กำลัง",
    "chinese": "你好,世界。「引号」",
    "japanese": "こんにちは世界 カタカナ",
    "korean": "안녕하세요",
    "amharic": "ሰላም ልዑል",
    "georgian": "გამარჯობა",
    "cuneiform": "\U00012000\U00012001\U00012002",
    "gothic": "\U00010330\U00010331",
    "mathematical letters": "\U0001d400\U0001d55c\U0001d7d8",
    "rare ideographs": "\U00020000\U0002a6d6\U0003134a",
}
EMOJI = {
    "a face": "😀",
    "a family": "👨\u200d👩\u200d👧\u200d👦",
    "a skin tone": "👍🏽",
    "a flag": "🇳🇱🇩🇪",
    "half a flag": "🇳",
    "a rainbow flag": "🏳\ufe0f\u200d🌈",
    "scotland": "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "a keycap": "1\ufe0f\u20e3",
    "a heart as text": "\u2764\ufe0e",
    "a heart as emoji": "\u2764\ufe0f",
    "a lone joiner": "\u200d",
    "a lone variation selector": "\ufe0f",
    "a lone skin tone": "🏽",
    "a hundred faces": "😀" * 100,
}
DIRECTIONS = {
    "a right-to-left mark": "a\u200fb\u200e",
    "an override left open": "abc\u202egnp.exe",
    "embeddings": "\u202aa\u202bb\u202c\u202c",
    "isolates left open": "\u2066a\u2067b\u2068c",
    "mixed directions": "abc אבג 123 דהו def",
    "an arabic letter mark": "\u061c123",
}
NORMALISATIONS = {
    "composed": "\u00e9",
    "decomposed": "e\u0301",
    "both forms": "\u00e9e\u0301 e\u0301\u00e9",
    "the angstrom sign": "\u212b",
    "a ring above": "\u00c5",
    "the ohm sign": "\u2126 \u03a9",
    "the kelvin sign": "\u212a K",
    "a ligature": "\ufb01 fi",
    "full width": "ＡＢＣ１２３",
    "half-width katakana": "ｶﾞ ガ",
    "superscripts": "x² x2 ½",
    "a long s": "ſ s ẞ ß",
    "hangul composed": normalize("NFC", "한글"),
    "hangul decomposed": normalize("NFD", "한글"),
    "marks in one order": "q\u0307\u0323",
    "marks in the other order": "q\u0323\u0307",
    "excluded from composition": "\u0958 \u0915\u093c",
    "compatibility ideographs": "\uf900 \u8c48",
    "a mark at the start": "\u0301a",
    "a mark alone": "\u0308",
    "fifty marks on a letter": "Z" + "\u0337\u0350\u0489\u0316\u0323" * 10,
    "a combining grapheme joiner": "a\u034f\u0301",
}
INVISIBLE = {
    "a byte order mark": "\ufeff",
    "a byte order mark first": "\ufefftext",
    "a byte order mark inside": "te\ufeffxt",
    "the swapped byte order mark": "\ufffe",
    "a zero-width space": "a\u200bb",
    "a word joiner": "a\u2060b",
    "a soft hyphen": "so\u00adft",
    "a mongolian vowel separator": "\u180e",
    "invisible operators": "\u2061\u2062\u2063\u2064",
    "interlinear annotation": "\ufff9a\ufffab\ufffb",
    "language tags": "\U000e0001\U000e0065\U000e006e",
    "hangul fillers": "\u115f\u1160\u3164\uffa0",
    "spaces around": "  a  ",
    "spaces alone": "   ",
    "a no-break space": "\u00a0",
    "an ideographic space": "\u3000a\u3000",
    "all spaces": "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f",
    "a line separator": "a\u2028b",
    "a paragraph separator": "a\u2029b",
    "a next line": "a\u0085b",
    "a delete character": "a\u007fb",
    "all of c1": "".join(map(chr, range(0x80, 0xA0))),
    "the replacement character": "\ufffd",
    "the object replacement character": "\ufffc",
}
CODE_POINTS = {
    f"U+{number:04X}": chr(number)
    for number in (
        *(0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xF8FF, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000),
        *range(0xFDD0, 0xFDF0, 5),
        *(plane + end for plane in range(0x10000, 0x110000, 0x30000) for end in (0xFFFE, 0xFFFF)),
        *(0xF0000, 0x10FFFD, 0x10FFFE, 0x10FFFF),
    )
}
TRAPS = {
    "nothing": "",
    "sql": "'; DROP TABLE messages; --",
    "sql placeholders": "$1 %s :owner_id ? {0}",
    "a copy null": "NULL null None nil undefined NaN",
    "markup": "<script>alert(1)</script> &amp; <!-- --> ]]>",
    "a template": "{{7*7}} ${7*7} #{7*7} <%= 7*7 %>",
    "a format": "%d %n %(name)s {name!r:>10}",
    "an address": "https://example.org/?a=1&b=%20#c",
    "a percent sign": "%00 %zz 100%",
    "base64": "AAECAwQFBgcICQ==",
    "seventy brackets in a string": "[" * 70 + "{" * 70,
    "closing brackets in a string": "]}" * 40,
    "commas and colons": ",:,:{}[],",
    "slashes": "a/b//c",
    "a code fence": "```py print('x') ```",
    "a date": "2026-01-01T00:00:00Z",
    "a number": "1e2",
    "a boolean": "true",
    "a uuid": "0192A4C8-7C1E-7D3A-9F00-3F1C5A2B7E10",
}
ESCAPED = {
    **{f"control {number:02x}": rf"\u{number:04x}" for number in range(0x20)},
    "short escapes": r"\b\f\n\r\t\"\\\/",
    "nul between letters": r"a\u0000b",
    "nul first and last": r"\u0000a\u0000",
    "many nuls": r"\u0000" * 50,
    "not a nul": r"\\u0000",
    "a backslash and a nul": r"\\\u0000",
    "a solidus": r"\/",
    "a solidus by number": r"\u002f",
    "a quote by number": r"\u0022",
    "a backslash by number": r"\u005c",
    "a backslash by number before an n": r"\u005cn",
    "a letter by number": r"\u0041",
    "lower hex": r"\u00e9",
    "upper hex": r"\u00E9",
    "mixed hex": r"\uAbCd\uaBcD",
    "a literal beside its escape": r"é\u00e9\u00E9",
    "a pair": r"\ud83d\ude00",
    "an upper pair": r"\uD83D\uDE00",
    "a mixed pair": r"\uD83d\ude00",
    "a pair beside its literal": r"\ud83d\ude00😀",
    "two pairs": r"\ud83d\ude00\ud83d\ude01",
    "the first pair": r"\ud800\udc00",
    "the last pair": r"\udbff\udfff",
    "no pair but letters": r"\\ud83d\\ude00",
    "an escaped noncharacter": r"\uffff\ufffe\ufdd0",
    "an escaped byte order mark": r"\ufeff",
    "an escaped delete": r"\u007f",
    "an escaped line separator": r"\u2028\u2029",
    "backslashes": r"\\" * 33,
    "quotes": r"\"" * 33,
    "a backslash before the end": r"a\\",
    "an escaped quote before the end": r"a\"",
    "backslashes and quotes": r"\\\"\\\\\"\"\\",
    "brackets behind an escaped quote": r"\"[[[[{{{{\"",
    "json in a string": r"{\"a\":[1,{\"b\":\"\\\"\"}]}",
    "json in json in a string": r"\"{\\\"a\\\":\\\"\\\\\\\"\\\"}\"",
    "windows lines": r"one\r\ntwo\r\n",
    "a tabbed code block": r"def f():\n\treturn 1\n",
    "an ansi sequence": r"\u001b[31mred\u001b[0m",
    "a bell and backspaces": r"\u0007\b\b",
}
LONG = {
    "64 KB of letters": "abcdefgh" * 8192,
    "1 MB of letters": "lorem ipsum dolor " * 58255,
    "1 MB of emoji": "😀" * 262144,
    "1 MB without compression": "".join(chr(0x4E00 + number * number % 20011) for number in range(349526)),
    "1 MB of escapes": r"\u00e9" * 174763,
    "1 MB of nuls": r"\u0000" * 174763,
    "1 MB of newlines": r"\n" * 524288,
}

_TEXTS = SPOKEN | EMOJI | DIRECTIONS | NORMALISATIONS | INVISIBLE | CODE_POINTS | TRAPS | ESCAPED | LONG
STRINGS = {name: f'"{text}"'.encode() for name, text in _TEXTS.items()}

NUMBERS = {
    text.decode(): text
    for text in (
        *(b"0", b"-0", b"0.0", b"-0.0", b"0e0", b"0E+0", b"-0e-0", b"1", b"-1", b"1.0", b"1.00", b"1.10", b"100"),
        *(b"1e2", b"1E2", b"1e+2", b"1E+2", b"1e02", b"1e-2", b"12e-1", b"1.5e3", b"1e00000001"),
        *(b"1e308", b"1e309", b"1e400", b"-1e400", b"1e-400", b"1e999999999", b"1e-999999999"),
        *(b"0.1", b"0.30000000000000004", b"0.10000000000000000555", b"3.141592653589793238462643383279502884"),
        *(b"9007199254740992", b"9007199254740993", b"9223372036854775807", b"9223372036854775808"),
        *(b"18446744073709551615", b"18446744073709551616", b"-9223372036854775809"),
        *(b"5e-324", b"2.2250738585072011e-308", b"1.7976931348623159e308"),
        b"1234567890123456789012345678901234567890",
    )
} | {
    "5,000 digits": b"9" * 5000,
    "-5,000 digits": b"-" + b"1234567890" * 500,
    "5,000 decimals": b"0." + b"1234567890" * 500,
    "140,000 digits": b"7" * 140_000,
}
VALUES = {"true": b"true", "false": b"false", "null": b"null"} | NUMBERS

CONTAINERS = {
    "an empty object": b"{}",
    "an empty array": b"[]",
    "an empty object with a space": b"{ }",
    "an empty array with a newline": b"[\n]",
    "empty ones": b'[[],{},[[]],[{}],{"":{}}]',
    "an empty name": b'{"":""}',
    "nulls": b'{"a":null,"b":[null,null]}',
    "a duplicate member": b'{"a":1,"a":2}',
    "an equal duplicate": b'{"a":1,"a":1}',
    "three duplicates and one between": b'{"a":1,"b":0,"a":2,"a":3}',
    "a duplicate by escape": b'{"a":1,"\\u0061":2}',
    "duplicates inside": b'[{"x":{"a":1,"a":{"b":1,"b":2}}}]',
    "members out of order": b'{"z":1,"a":2,"m":3,"B":4}',
    "numbers for names": b'{"10":1,"9":2,"1":3,"01":4}',
    "names of objects": b'{"__proto__":1,"constructor":2,"toString":3,"__class__":4}',
    "names of ours": b'{"role":"user","content":"x","messages":[],"seq":1,"id":"x"}',
    "a name with a nul": b'{"a\\u0000b":1}',
    "a name of emoji": '{"😀":1,"\\ud83d\\ude00":2}'.encode(),
    "names in two forms": '{"\u00e9":1,"e\u0301":2}'.encode(),
    "a long name": b'{"' + b"n" * 5000 + b'":1}',
    "spaces": b'{ "a" : 1 , "b" : [ 1 , 2 ] }',
    "tabs": b'{\t"a"\t:\t1\t}',
    "newlines": b'{\n  "a": 1,\n  "b": [\n    1,\n    2\n  ]\n}',
    "carriage returns": b'{\r"a":1\r}',
    "windows lines": b"[\r\n  1,\r\n  2\r\n]",
    "all whitespace": b"[ \t\r\n1 \t\r\n, \t\r\n2 \t\r\n]",
    "64 KB of whitespace": b"[" + b" \n" * 32768 + b"]",
    "escapes in names": b'{"\\u0041\\n\\/":1}',
    "a type among others": b'{"type":"x","text":"y"}',
    "two types": b'{"type":"x","type":"y"}',
    "every kind": b'[null,true,false,0,-0,1e2,"",{},[]]',
    "every number": b"[" + b",".join(NUMBERS.values()) + b"]",
    "10,000 elements": b"[" + b",".join(b"%d" % number for number in range(10_000)) + b"]",
    "1,000 members": b"{" + b",".join(b'"k%d":%d' % (-number, number) for number in range(1000)) + b"}",
    "1,000 times the same member": b"{" + b",".join(b'"a":%d' % number for number in range(1000)) + b"}",
    "strings full of brackets": b'["[[[[","}}}}","\\"[","\\\\",{"]":"["}]',
    "a tool call": b'[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\\"x\\": 1.0}"}}]',
    "arrays 62 deep": b"[" * 62 + b"]" * 62,
    "objects 62 deep": b'{"a":' * 61 + b"{}" + b"}" * 61,
    "siblings 62 deep": b"[[]," * 61 + b"[]" + b"]" * 61,
}
KEPT = {
    **{f"string: {name}": text for name, text in STRINGS.items()},
    **{f"value: {name}": text for name, text in VALUES.items()},
    **{f"container: {name}": text for name, text in CONTAINERS.items()},
}

DEEPEST = {
    "arrays": b"[" * 64 + b"]" * 64,
    "objects": b'{"a":' * 63 + b"{}" + b"}" * 63,
    "both": b'[{"a":' * 32 + b"0" + b"}]" * 32,
    "siblings": b"[[],1," * 63 + b"[1]" + b',"]"]' * 63,
    "arrays with strings of brackets": b'["[[",' * 63 + b"[]" + b"]" * 63,
}
TOO_DEEP = {
    **{f"{depth:,} arrays": b"[" * depth + b"]" * depth for depth in (65, 66, 67, 68, 900, 1000, 10_000, 1_000_000)},
    **{f"{depth:,} objects": b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1) for depth in (65, 68, 900, 10_000)},
    "65 of both": b'[{"a":' * 32 + b"[]" + b"}]" * 32,
    "65 beside 64": b"[" + b"[" * 63 + b"]" * 63 + b"," + b"[" * 64 + b"]" * 64 + b"]",
    "10,000 unclosed": b"[" * 10_000,
}
LONE_SURROGATES = {
    "high": rb'"\ud800"',
    "the last high": rb'"\udbff"',
    "low": rb'"\udc00"',
    "the last low": rb'"\udfff"',
    "upper case": rb'"\uD83D"',
    "high before a letter": rb'"\ud83dx"',
    "high before an escape": rb'"\ud83d\n"',
    "high before a letter by number": rb'"\ud83d\u0041"',
    "high before high": rb'"\ud83d\ud83d"',
    "high before high and low": rb'"\ud83d\ud83d\ude00"',
    "low before high": rb'"\ude00\ud83d"',
    "low behind a pair": rb'"\ud83d\ude00\ude00"',
    "high before a low in letters": rb'"\ud83d\\ude00"',
    "high and low apart": rb'"\ud83d \ude00"',
    "high before half an escape": rb'"\ud83d\u"',
    "behind 100 escapes": b'"' + rb"\\\n\u0041" * 100 + rb'\ud800"',
    "in a name": rb'{"\ud800":1}',
    "in a value inside": rb'[{"a":["\udc00"]}]',
}
INVALID_UTF8 = {
    "a lone continuation": b"\x80",
    "a lead without continuation": b"\xc3",
    "two leads": b"\xc3\xc3\xa9",
    "latin-1": "é".encode("latin-1"),
    "windows quotes": b"\x93x\x94",
    "overlong slash in 2": b"\xc0\xaf",
    "overlong nul": b"\xc0\x80",
    "overlong in 3": b"\xe0\x80\xaf",
    "overlong in 4": b"\xf0\x80\x80\xaf",
    "overlong last of 2": b"\xe0\x9f\xbf",
    "overlong last of 3": b"\xf0\x8f\xbf\xbf",
    "a high surrogate": b"\xed\xa0\x80",
    "a low surrogate": b"\xed\xb0\x80",
    "a pair in cesu-8": b"\xed\xa0\xbd\xed\xb8\x80",
    "past the last": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "truncated after 1 of 2": b"\xc2",
    "truncated after 1 of 3": b"\xe2",
    "truncated after 2 of 3": b"\xe2\x82",
    "truncated after 3 of 4": b"\xf0\x9f\x98",
    "FE": b"\xfe",
    "FF": b"\xff",
    "utf-16": "\ufeffx".encode("utf-16-le"),
}
RAW_CONTROLS = {f"{number:02x}": bytes([number]) for number in range(0x20)}
MALFORMED = {
    text.decode(): text
    for text in (
        *(b"01", b"-01", b"00", b"1.", b".5", b"-.5", b"+1", b"-", b"--1", b"1e", b"1e+", b"1.e1", b"1E", b"1.5.5"),
        *(b"1e5.5", b"0x10", b"1_000", b"1,5e", b"NaN", b"Infinity", b"-Infinity", b"1f", b"1n", b"0b1", b"1 2"),
        *(b"True", b"None", b"tru", b"nulll", b"undefined", b"'a'", b"a", b"/*x*/1", b"1//x", b"", b","),
        *(b"[1,]", b"[,]", b"[1 2]", b"[", b"]", b'{"a":1,}', b'{"a"}', b'{"a" 1}', b"{a:1}", b"{1:2}", b"{,}", b"{"),
        *(rb'"\x41"', rb'"\u12"', rb'"\u12g4"', rb'"\a"', rb'"\'"', rb'"\U00000041"', b'"a', rb'"\"', rb'"\u"'),
        *("\u00a01".encode(), "\u20281".encode(), "\ufeff1".encode(), "１".encode(), "−1".encode()),
        *(b"\x0c1", b"\x0b1", b"\x001", b"1\x00"),
    )
}
REFUSED = {
    **{f"surrogate: {name}": text for name, text in LONE_SURROGATES.items()},
    **{f"utf-8: {name}": b'"' + text + b'"' for name, text in INVALID_UTF8.items()},
    **{f"raw control: {name}": b'"a' + text + b'b"' for name, text in RAW_CONTROLS.items()},
    **{f"malformed: {name}": text for name, text in MALFORMED.items()},
    **{f"too deep: {name}": text for name, text in TOO_DEEP.items()},
}


def _escape_pair(letter: str) -> str:
    units = letter.encode("utf-16-be")
    return rf"\u{units[:2].hex()}\u{units[2:].hex()}"


whitespace = st.text(" \t\r\n", max_size=3)
letters = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters='"\\'), max_size=4)
marks = st.sampled_from(list("[]{},:"))
escapes = st.sampled_from([r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t"])
numbered = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]).map(lambda letter: rf"\u{ord(letter):04x}")
pairs = st.characters(min_codepoint=0x10000).map(_escape_pair)
uppered = (numbered | pairs).map(lambda text: text.upper().replace("U", "u"))
pieces = st.lists(letters | marks | escapes | numbered | pairs | uppered, max_size=6).map("".join)
strings = pieces.map(lambda text: f'"{text}"')
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    values = draw(st.lists(st.tuples(whitespace, inner, whitespace).map("".join), max_size=4))
    return f"[{','.join(values)}]" if values else f"[{draw(whitespace)}]"


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[str], names: st.SearchStrategy[str] = strings) -> str:
    """An object whose names may come twice."""
    member = st.tuples(whitespace, names, whitespace, st.just(":"), whitespace, inner, whitespace).map("".join)
    members = draw(st.lists(member, max_size=4))
    return f"{{{','.join(members)}}}" if members else f"{{{draw(whitespace)}}}"


scalars = strings | numbers | st.sampled_from(["true", "false", "null"])
json_texts = st.recursive(
    scalars, lambda inner: arrays(inner) | objects(inner, strings | st.just('"a"')), max_leaves=12
)
"""JSON in any of its forms: whitespace, escapes, numbers as they may be written, repeated members."""
