"""What may leave the process: no secret, no prompt, one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.reporting import redaction
from gateway.reporting.redaction import FRAGMENT_CHARS, MASK, PROMPT_MASK, escape_controls, redact

CANARY = "sk-or-v1-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "text",
    [
        f"Invalid key {CANARY}",
        f"Invalid key '{CANARY}'.",
        "key=AIzaSyA0123456789abcdefghijklmnopqrstuvw",
        "got AIzaSyA0123456789abcdefghijklmnopqrstuvw, refused",
        "AQ.Ab8RN6abcdefghijklmnopqrstu is not valid",
        "Authorization: Bearer abcdef0123456789",
        "header {'Authorization': 'Basic abcdef0123456789'}",
        "x-goog-api-key: abcdef0123456789",
        "https://host/v1?alt=json&key=abcdef0123456789&x=1",
        "proxy http://user:abcdef0123456789@proxy:3128 is down",
        "amqp://user:p@ss/abcdef0123456789@host/vhost",
        '{"password": "abcdef0123456789"}',
    ],
)
def test_what_looks_like_a_secret_is_masked(text):
    """A key, a token, a password in a URL: none survives, whatever stands around it."""
    shown = redact(text)

    assert MASK in shown
    assert "0123456789" not in shown
    assert "abcdefgh" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "Rate limit exceeded: free-models-per-day",
        "task-scheduling-of-models is at capacity",
        "max_tokens: 8192 is above the limit of 4096",
        "see https://openrouter.ai/docs/limits for more",
        "No bearer token in the header",
    ],
)
def test_an_ordinary_sentence_stays_as_it_is(text):
    """Redaction does not eat the reason that an operator needs."""
    assert redact(text) == text


@given(pattern=st.sampled_from(redaction._SECRETS), data=st.data())
def test_no_secret_is_missed_by_the_quick_look(pattern, data):
    """The look that spares most texts the patterns finds whatever one of them finds."""
    found = data.draw(st.from_regex(pattern))
    if pattern.search(found):
        assert redaction._may_hold_secrets(found)


def test_a_given_secret_is_masked_in_every_spelling():
    """A secret of no known form is masked when the caller names it, percent-encoded too."""
    assert redact("pw p@ss/word and p%40ss%2Fword", ["p@ss/word"]) == f"pw {MASK} and {MASK}"


def test_a_secret_inside_a_longer_secret_leaves_no_rest():
    """The longest secret goes first."""
    assert redact("abcdefgh", ["abcd", "abcdefgh"]) == MASK


def test_an_empty_secret_masks_nothing():
    """An unset setting does not turn a text into stars."""
    assert redact("all good", ["", "a"]) == "all good"


def test_a_repeated_prompt_is_masked_as_a_whole():
    """The provider's words stay, the producer's go."""
    prompt = "Tell me everything about the merger of Canary Ltd."

    assert redact(f'Input "{prompt}" was flagged', prompts=[prompt]) == f'Input "{PROMPT_MASK}" was flagged'


def test_a_long_piece_of_a_prompt_is_masked():
    """An upstream that cuts the prompt it repeats still shows none of it."""
    prompt = "Alpha beta gamma delta epsilon zeta eta theta iota kappa"

    assert redact("near 'delta epsilon zeta eta' (2 flags)", prompts=[prompt]) == f"near '{PROMPT_MASK}' (2 flags)"


def test_pieces_of_a_prompt_are_masked_one_by_one():
    """What stands between two pieces is kept."""
    first, second = "a" * FRAGMENT_CHARS, "b" * FRAGMENT_CHARS

    shown = redact(f"{first} and {second}!", prompts=[first + second])

    assert shown == f"{PROMPT_MASK} and {PROMPT_MASK}!"


def test_a_prompt_escaped_as_json_is_masked():
    """`raw` style repetitions hold the prompt with its newlines and umlauts escaped."""
    prompt = "Grüße\nan Zoë"

    assert redact(r'text: "Gr\u00fc\u00dfe\nan Zo\u00eb"', prompts=[prompt]) == f'text: "{PROMPT_MASK}"'


def test_a_short_prompt_is_masked_only_as_a_word():
    """The prompt `mode` does not hide the word `model`."""
    assert redact("mode of model", prompts=["mode"]) == f"{PROMPT_MASK} of model"


def test_a_prompt_of_nothing_much_masks_nothing():
    """A prompt of one letter is in every sentence."""
    assert redact("a fine day", prompts=["a", " "]) == "a fine day"


def test_redacted_text_is_one_visible_line():
    """An upstream text cannot forge a log line or colour a terminal."""
    assert redact("a\nb\x1b[31m\u2028c\x00\ud800") == r"a\nb\x1b[31m\u2028c\x00\ud800"


def test_controls_are_escaped_and_the_rest_is_left():
    """Umlauts and emoji are text; newlines, ANSI, separators and direction marks are not."""
    assert escape_controls("ü🙂\r\n\t\x9b\u2029\u202e\ufeff") == r"ü🙂\r\n\t\x9b\u2029\u202e\ufeff"


@pytest.mark.parametrize("limit", [1, 5, 200])
@pytest.mark.parametrize("text", ["x" * 1000, "\n" * 1000])
def test_a_long_text_is_cut_to_the_limit(text, limit):
    """The limit counts what is shown, escapes included, and the cut can be seen."""
    shown = escape_controls(text, limit=limit)

    assert len(shown) <= limit
    assert shown.endswith("…")


def test_a_text_that_fits_is_not_cut():
    """At the limit is within the limit."""
    assert escape_controls("x" * 200) == "x" * 200
