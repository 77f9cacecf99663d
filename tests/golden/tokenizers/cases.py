"""The texts that the tokenizer goldens are about: what tokenizers disagree on. Written for this purpose."""

from __future__ import annotations

import random

CASES: tuple[str, ...] = (
    *(
        "",
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\n\n\n\n",
        "\t",
        "\t\t",
        " \n",
        "\n ",
        " \n \n  ",
        "\r\n",
        "\r\n\r\n x",
        "\r",
    ),
    *("a", " a", "  a", "   a   ", "a\n\n\nb", "a \n b", "x\t\ty\tz", "end ", "end  ", "end \n", "end\n  "),
    "Hello, world! The quick brown fox jumps over the lazy dog.",
    "I'm sure you're right; we've said they'll come. It's Ann's, isn't it? I'd go.",
    "I'M SURE YOU'RE RIGHT; WE'VE SAID THEY'LL. IT'S ANN'S. I'D 'Tis 'twas rock'n'roll ''s '",
    "camelCase HTTPServer XMLHttpRequest snake_case kebab-case iPhone McDonald NASA's ABCdef",
    *("1", "12", "123", "1234", "12345", "123456", "1234567", "12345678", "123456789", "1234567890"),
    "3.14159 1,000,000 1e-10 0x1F 2026-11-23 12:34:56 v1.2.3 x2y3 4th 50% $19.99 +1 (555) 123-4567",
    "a1234567b 12ab34 1 2 3 10 20 300 4000 50000",
    "٠١٢٣٤ १२३ Ⅷ ½²³ ① １２３ 一二三",
    "def f(x: int) -> int:\n    return x**2  # square\n\n\nclass A(B):\n\tpass\n",
    'for (int i = 0; i < n; ++i) { a[i] += "x\\n"; } /* done */ // ok\n',
    '<div class="a b">text &amp; more</div>\n<!-- note -->\n{{ user }} {% if x %}',
    "https://example.org/a/b?c=d&e=f#g user@example.com C:\\dir\\file.txt ~/x",
    "!!! ??? ... --- *** ___ ### $$$ ((( ))) [[[ ]]] ,,, ;;; ::: ''' \"\"\" ``` ~~~ ^^^ ||| === +++",
    "a,b;c:d!e?f.g/h\\i|j~k`l@m#n$o%p^q&r*s(t)u-v_w=x+y[z]",
    " , . ! ? ; : ' \" ( ) [ ] { } < > = + - * / \\ | ~ ` @ # $ % ^ & _",
    "naïve café façade élève Ärger Übung Straße niño señor São smørrebrød",
    "Cafe\u0301 e\u0301\u0302 \u0301x \u0301 a\u0308b",
    "Привет, мир! Как дела? Съешь ещё этих мягких французских булок.",
    "Γειά σου Κόσμε, τι κάνεις; ΑΒΓ αβγ",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣ نعم",
    "שלום עולם, מה שלומך? כן.",
    "你好，世界！今天天气怎么样？我想买3个苹果。",
    "こんにちは世界。カタカナとひらがな、漢字。ｶﾀｶﾅ",
    "안녕하세요 세계! 오늘 날씨가 어때요? ㄱㄴㄷ",
    "สวัสดีชาวโลก ภาษาไทย",
    "नमस्ते दुनिया, आप कैसे हैं? বাংলা ভাষা தமிழ்",
    "ქართული Հայերեն አማርኛ ខ្មែរ မြန်မာ ລາວ",
    "😀 😀😀 🎉🎊 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 ☺️ ✨text✨",
    "a\u00a0b\u2003c\u3000d\u0085e\u2028f\u200bg\u200dh\ufeffi\u00adj",
    " \u2003\u3000x \u00a0 y \u1680z",
    "\x00\x01\x1b[0m\x7f\x0b\x0c\x1c",
    "\ud7a3\ue000\ufffd\U0001f9ff\U000e0001\U0010ffff",
    "ſt 'ſ K'K Å ﬁ ǅ ǆ ᾼ ŉ İ ı ẞ",
    "“quoted” ‘single’ «guillemets» „low“ — – … • · § ¶ † ‡ ° ′ ″ № ™ © ® € £ ¥ ₿",
    "∑ ∫ √ ≤ ≥ ≠ ∞ α→β ⇒ ∀x∈ℝ",
    "▁ ▁▁x a▁b <0x0A> <0xFF> Ġ Ċ",
    "<s>hi</s> <unk> there",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_end|> <|im_end|> \n<|endoftext|>",
    "a<custom>b <custom><customs> c<custom",
    "<|im_start|<|im_end|> |im_end|> <|im_start",
    "foo  bar   baz    qux     quux      corge       ",
    "\n\n\n    indented\n\n        more\n\t\ttabs\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "abababababababababab aabaabaab abcabcabcabc",
    "================================\n--------------------------------",
    "<sentinel:12> IMGIMGABZ IMGIMGZ",
    "lower UPPER Title tItLe ÉCOLE École éCOLE ПРИВЕТ Привет",
    "the the the and and of of to to in in is is it it that that was was for for",
)

_ALPHABETS = (
    *("abcdeXYZ", "the and of ", "0123456789", " \t\n\r", "'s't're've'm'll'd'S'LL", "!?.,;:-_()[]{}<>|/\\\"'"),
    *(
        "#$%^&*+=~`@",
        "éàüñçßøåœ",
        "жщыэБГД",
        "漢字仮名かなカナ한글",
        "العربية עברית",
        "😀🎉👩\u200d\ufe0f",
        "\u0301\u0302\u0940\u0e31",
    ),
    *("٣४Ⅷ½²", "\u00a0\u2003\u3000\u0085", "。、！？“”…", "ǅſıİKÅ"),
)


def random_texts(count: int, seed: int) -> list[str]:
    """Short mixtures of everything, the same for the same seed."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        pools = [draw.choice(_ALPHABETS) for _ in range(draw.randint(2, 14))]
        texts.append("".join(draw.choice(pool) for pool in pools for _ in range(draw.choice((1, 1, 2, 3)))))
    return texts
