"""Texts as words and as bytes, external word vectors, and language models of them."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from fastrnn._files import storage
from fastrnn.batches import Streams
from fastrnn.data import _splitting
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import LanguageModel, text_parts
from fastrnn.models.text import UNKNOWN, Bytes, Vocabulary, Words, read_bytes, split_words
from fastrnn.models.vectors import read_vectors

TEXT = "".join(
    f"The {kind} cat isn't {n % 7},\n\n  and {n} dogs don't mind: “fine”.\n"
    for n in range(60)
    for kind in ("old", "new")
)
QUICK = dict(epochs=2, batch_size=4, seq_len=11, lr=0.01, verbose=False)

pytestmark = pytest.mark.filterwarnings("ignore:(the held-out part|the text) has words that:UserWarning")


def small(level="word", **options):
    return LanguageModel("gru", **{"hidden_size": 12, "level": level, "seed": 3} | options)


@pytest.fixture(scope="module", params=["word", "byte"])
def fitted(request):
    return small(request.param, tied=True).fit(TEXT, **QUICK)


# ---- words --------------------------------------------------------------------------------------------------------


@given(st.text(), st.sampled_from(["unicode", "simple"]))
def test_words_joined_are_the_text(text, splitting):
    assert "".join(split_words(text, splitting)) == text


@given(st.text(alphabet=" \n\ta'’.é<unk>_1\u0301\u200d", max_size=40), st.sampled_from(["unicode", "simple"]))
def test_words_joined_are_a_text_of_blanks_and_signs(text, splitting):
    words = split_words(text, splitting)
    assert "".join(words) == text
    assert all(words)


def test_where_words_begin_and_end():
    assert split_words("A dog’s 'bone'.") == ["A", " dog’s", " '", "bone", "'", "."]
    assert split_words("\n\n    can't (x2)!!\t") == ["\n", "\n", "   ", " can't", " (", "x2", ")", "!", "!", "\t"]
    assert split_words("<unk> <unk>  ") == ["<unk>", " <unk>", " ", " "]


@pytest.mark.parametrize(
    "text", ["नमस्ते दुनिया", "தமிழ் மொழி", "العَرَبِيَّة لغة", "שָׁלוֹם עולם", "re\u0301sume\u0301 x", "می\u200cخواهم x"]
)
def test_combining_marks_stay_with_their_letters(text):
    assert split_words(text) == [text.split()[0], " " + text.split()[1]]
    words = LanguageModel("rnn", 4, level="word", min_count=1, seed=0).fit(
        (text + "\n") * 20, **QUICK | {"batch_size": 2, "seq_len": 5}
    )
    assert {word for word in words.vocabulary.symbols if word[0] not in "<\n"} <= {
        text.split()[0],
        " " + text.split()[1],
    }
    with pytest.raises(ValueError, match="has combining marks, which splitting='simple' cuts off: give 'unicode'"):
        LanguageModel("rnn", 4, level="word", splitting="simple", seed=0).fit((text + "\n") * 20, **QUICK)


def test_numbers_and_addresses_are_whole_and_chinese_characters_are_words():
    assert split_words("3.14 at example.com, 日本") == ["3.14", " at", " example.com", ",", " 日", "本"]
    assert split_words("3.14 at", "simple") == ["3", ".", "14", " at"]


def test_a_saved_model_splits_as_in_training_and_an_older_one_by_the_former_rule(tmp_path):
    text = "pi is 3.14, e is 2.72.\n" * 30
    for splitting in ("unicode", "simple"):
        model = small(splitting=splitting).fit(text, **QUICK)
        assert ("3.14" in "".join(model.vocabulary.symbols)) == (splitting == "unicode")
        model.save(tmp_path / splitting)
        again = LanguageModel.load(tmp_path / splitting)
        assert again.splitting == again.vocabulary.splitting == splitting
        assert again.score(text) == model.score(text)
    arrays, config = storage.load(tmp_path / "simple")
    del config["splitting"]
    storage.save(tmp_path / "older", arrays, config)
    older = LanguageModel.load(tmp_path / "older")
    assert older.splitting == "simple" and older.score(text) == model.score(text)
    assert older.generate("pi is 3.14", 9, seed=1) == model.generate("pi is 3.14", 9, seed=1)


def test_without_regex_words_are_split_the_simple_way_only_on_request(monkeypatch, tmp_path):
    small().fit(TEXT, **QUICK).save(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "regex", None)
    _splitting._unicode.cache_clear()
    for make in (small, lambda: split_words("a b"), lambda: LanguageModel.load(tmp_path / "m")):
        with pytest.raises(
            ImportError, match=r"needs the package regex: pip install 'fastrnn\[data\]'.*splitting='simple'"
        ):
            make()
    assert small(splitting="simple").fit(TEXT, **QUICK).splitting == "simple"
    with pytest.raises(ValueError, match="splitting=simple is for words, but level is 'character'"):
        small("character", splitting="simple")
    monkeypatch.undo()
    _splitting._unicode.cache_clear()


def test_rare_words_are_unknown_and_the_most_frequent_are_kept():
    words = split_words("b b b b c c a a d\n" * 2 + " <unk>" * 9)
    assert Words.of(words, 2).symbols == [UNKNOWN, " b", " a", " c", "\n", " d", "b"]
    assert Words.of(words, 4).symbols == [UNKNOWN, " b", " a", " c"]
    assert Words.of(words, 2, 3).symbols == [UNKNOWN, " b", " a"]
    vocabulary = Words.of(words, 4)
    assert_array_equal(vocabulary.encode("x b a d <unk><unk>"), [0, 1, 2, 0, 0, 0])
    assert vocabulary.decode([1, 2, 1]) == " b a b"
    assert (vocabulary.find(" a"), vocabulary.find("\n")) == (2, None)
    with pytest.raises(
        ValueError, match="the text has no word that occurs min_count=3 times: lower min_count, or give more text"
    ):
        Words.of(split_words("no word twice"), 3)


# ---- bytes --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=40), st.integers(0, 40))
def test_pieces_of_bytes_are_the_text_for_any_end_of_the_prompt(data, cut):
    """Invalid UTF-8 becomes U+FFFD, as in decode; a character that the prompt begins is printed when complete."""
    before, after = data[:cut], data[cut:]
    pieces = list(Bytes().pieces(after, before=before))
    assert all(pieces)
    whole = data.decode("utf-8", "replace")
    assert whole.endswith("".join(pieces))
    if not cut:
        assert "".join(pieces) == whole == Bytes().decode(data)


def test_a_character_is_written_with_its_last_byte():
    written = []

    def ids():
        for byte in "né€😀".encode() + b"\xe2\x82":
            written.append(byte)
            yield byte

    came = [(piece, len(written)) for piece in Bytes().pieces(ids())]
    assert came == [("n", 1), ("é", 3), ("€", 6), ("😀", 10), ("\ufffd", 12)]
    assert list(Bytes().pieces([0xA9, 0x21], before=[0xC3])) == ["é", "!"]


def test_bytes_are_read_as_they_are(tmp_path):
    path = tmp_path / "t"
    path.write_bytes(b"\xef\xbb\xbfa\r\n\xff\0")
    assert bytes(read_bytes(path)) == b"\xef\xbb\xbfa\r\n\xff\0"
    assert read_bytes(bytearray(b"\xff")) == b"\xff"
    assert_array_equal(Bytes().encode("é\n"), [0xC3, 0xA9, 10])
    path.write_bytes(b"")
    for empty, name in ((b"", "the text"), ("", "the text"), (path, f"the file {path}")):
        with pytest.raises(ValueError, match="is empty") as caught:
            read_bytes(empty)
        assert str(caught.value) == f"{name} is empty"


@pytest.mark.filterwarnings("ignore:no evaluation found a better")
def test_any_bytes_train_a_byte_model(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 2000, np.uint8).tobytes()
    (tmp_path / "data").write_bytes(data)
    model = small("byte").fit(data, **QUICK)
    assert_array_equal(small("byte").fit(tmp_path / "data", **QUICK).storage.flat, model.storage.flat)
    assert model.score(data) == model.score(tmp_path / "data")
    assert len(model.vocabulary) == 256
    assert model.generate(b"\xe2\x82", length=5, seed=1) == "".join(model.generate_iter(b"\xe2\x82", length=5, seed=1))


# ---- models -------------------------------------------------------------------------------------------------------


def test_a_saved_model_of_words_or_bytes_is_the_same_model(fitted, tmp_path):
    fitted.save(tmp_path)
    again = LanguageModel.load(tmp_path)
    assert_array_equal(again.storage.flat, fitted.storage.flat)
    assert again.score(TEXT) == fitted.score(TEXT)
    assert again.generate("The", length=30, seed=1) == fitted.generate("The", length=30, seed=1)
    assert repr(again) == repr(fitted)
    assert f"level={fitted.level!r}, tied=True" in repr(fitted)
    assert "label_smoothing" not in repr(fitted)


def test_a_model_saved_before_there_were_levels_is_one_of_characters(tmp_path):
    model = LanguageModel("gru", 12, seed=3).fit(TEXT, **QUICK)
    model.save(tmp_path)
    arrays, config = storage.load(tmp_path)
    for name in ("level", "min_count", "max_vocabulary", "tied", "label_smoothing"):
        del config[name]
    storage.save(tmp_path, arrays, config)
    again = LanguageModel.load(tmp_path)
    assert again.level == "character"
    assert again.score(TEXT) == model.score(TEXT)
    assert repr(again) == repr(model)
    assert "level" not in repr(model)


def test_tying_saves_a_weight():
    plain, tied = (
        small("byte").fit(TEXT, **QUICK | {"epochs": 0}),
        small("byte", tied=True).fit(TEXT, **QUICK | {"epochs": 0}),
    )
    assert plain.num_parameters - tied.num_parameters == 256 * 12
    assert_array_equal(tied.linear.params["weight"], tied.embedding.params["weight"])
    for model in (plain, tied):
        assert abs(-model.score(TEXT) - math.log(256)) < 0.3


@pytest.mark.filterwarnings("ignore:no evaluation found a better")
def test_the_words_of_the_held_out_part_are_not_in_the_vocabulary():
    """Nor do they count: the model learns from the training part only."""
    text = "one two three four five.\n" * 40 + "six six seven.\n" * 20  # 280 words and 100
    model = small().fit(text, **QUICK | {"validation": 100 / 380, "epochs": 1})
    assert {" six", "six", " seven"}.isdisjoint(model.vocabulary.symbols)
    assert {"one", " five", ".", "\n"} < set(model.vocabulary.symbols)
    with pytest.warns(
        UserWarning,
        match="the held-out part has words that are not in the training part: ' seven', ' six', 'six'; 60 of 100 words",
    ):
        small().fit(text, **QUICK | {"validation": 100 / 380, "epochs": 1})
    held_out = Streams(model.vocabulary.encode(text)[-100:], 4, 11)
    assert model.evaluate(held_out)["loss"] == min(entry["validation_loss"] for entry in model.history)


def test_score_is_per_word_and_unseen_words_are_one_unknown_word():
    model = small(dtype="float64", min_count=3).fit(TEXT, **QUICK)
    text = "The old cat isn't a zebra,\n\n  and dogs unicorns don't."
    ids = model.vocabulary.encode(text)
    assert len(ids) == len(split_words(text))
    assert [split_words(text)[i] for i in np.flatnonzero(ids == 0)] == [" a", " zebra", " unicorns"]
    y, _ = model.rnn(ids[:-1, None], embedding=model.embedding)
    nll = softmax_cross_entropy(model.linear(y), ids[1:, None])
    assert_allclose(model.score(text), -nll, rtol=1e-12)
    assert model.score(text.replace("zebra", "gnu").replace(" a ", " the ")) == model.score(text)
    with pytest.warns(
        UserWarning, match="the text has words .*: ' a', ' unicorns', ' zebra'; 3 of 15 words: they count as <unk>"
    ):
        model.score(text)
    assert_allclose(model.perplexity(text), math.exp(nll), rtol=1e-12)


def test_empty_lines_are_text_like_any_other():
    text = "a b\n\n\nc d\n\n\n\n" * 20
    for level in ("character", "word", "byte"):
        model = small(level).fit(text, **QUICK | {"validation": 0, "epochs": 40, "seq_len": 7})
        written = model.generate("a b\n\n\nc d", length=8, temperature=0)
        assert written.startswith("\n\n\n\na b")
        assert model.score("\n\n\n") < 0


def test_the_unknown_word_is_never_written():
    """Half the words of this text are unknown, so the model considers them the most likely."""
    rng = np.random.default_rng(0)
    text = "".join(f" {word}" for pair in zip(rng.permutation(2000), ["yes", "no"] * 1000) for word in pair)
    model = small().fit(text, **QUICK | {"epochs": 1})
    assert model.vocabulary.symbols == [UNKNOWN, " no", " yes"]
    for options in ({"temperature": 0}, {"temperature": 3}, {"top_k": 1}, {"top_p": 0.9}, {"prompt": " yes"}):
        written = model.generate(length=50, seed=1, **options)
        assert set(split_words(written)) <= {" no", " yes"}
        assert len(split_words(written)) == 50


def test_written_symbols_come_one_by_one(fitted):
    pieces = list(fitted.generate_iter("The old", length=25, seed=4))
    assert "".join(pieces) == fitted.generate("The old", length=25, seed=4)
    if fitted.level == "word":
        assert len(pieces) == 25
    else:
        assert "".join(pieces) == fitted.generate(b"The old", length=25, seed=4)
    assert fitted.generate("The", length=0) == ""


def test_smoothing_is_for_training_only():
    plain, smooth = (small("character", label_smoothing=eps).fit(TEXT, **QUICK | {"epochs": 0}) for eps in (0.0, 0.3))
    assert_array_equal(smooth.storage.flat, plain.storage.flat)
    assert smooth.score(TEXT) == plain.score(TEXT)
    batch = next(iter(Streams(plain.vocabulary.encode(TEXT), 4, 11)))
    losses = [m.loss_and_gradient(batch, into=np.zeros_like(m.storage.flat), rng=1)[0] for m in (plain, smooth)]
    logits = plain.linear(plain.rnn(batch[0], embedding=plain.embedding)[0])
    assert_allclose(losses[1], softmax_cross_entropy(logits, batch[1], label_smoothing=0.3), rtol=1e-6)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("level", ["word", "byte"])
def test_resume_continues_to_the_same_bits(level, tmp_path):
    vectors = {"pretrained": {"cat": np.ones(12), "dogs": np.zeros(12)}} if level == "word" else {}
    whole = small(level, tied=True, dropout=0.1).fit(TEXT, **QUICK, **vectors)
    small(level, tied=True, dropout=0.1).fit(TEXT, **QUICK | {"epochs": 1}, **vectors, checkpoint=tmp_path)
    again = small(level, tied=True, dropout=0.1).fit(TEXT, **QUICK, **vectors, checkpoint=tmp_path, resume=True)
    assert_array_equal(again.storage.flat, whole.storage.flat)
    if vectors:
        with pytest.raises(
            ValueError, match="the checkpoint in .* was made with pretrained='[0-9a-f]{12}', but now it is None"
        ):
            small(level, tied=True, dropout=0.1).fit(TEXT, **QUICK, checkpoint=tmp_path, resume=True)


# ---- word vectors -------------------------------------------------------------------------------------------------

GLOVE = b"the 1 2.5 -3e-2\ncat 4 5 6\n. . . 7 8 9\nzebra x y z\nthe 0 0 0\n"


def test_vectors_of_known_words_start_the_embedding_and_the_others_are_drawn(tmp_path):
    (tmp_path / "v.txt").write_bytes(GLOVE)
    options = QUICK | {"epochs": 0}
    plain = small(embedding_size=3).fit(TEXT, **options)
    model = small(embedding_size=3).fit(TEXT, **options, pretrained=tmp_path / "v.txt")
    assert (plain.pretrained_words, model.pretrained_words) == (None, 2)
    rows, drawn = model.embedding.params["weight"], plain.embedding.params["weight"]
    places = {model.vocabulary.find("The"): [1, 2.5, -3e-2], model.vocabulary.find(" cat"): [4, 5, 6]}
    for place, vector in places.items():
        assert_allclose(rows[place], vector, rtol=1e-7)
    others = [i for i in range(len(rows)) if i not in places]
    assert_array_equal(rows[others], drawn[others])
    same = small(embedding_size=3).fit(
        TEXT, **options, pretrained={"the": [1, 2.5, -3e-2], "The": [0, 1, 0], "cat": [4, 5, 6]}
    )
    assert_array_equal(
        same.embedding.params["weight"][model.vocabulary.find("The")], [0, 1, 0]
    )  # its own spelling takes precedence
    assert small(embedding_size=3).fit(TEXT, **QUICK, pretrained=str(tmp_path / "v.txt")).score(TEXT) != plain.score(
        TEXT
    )


def test_a_file_of_word2vec_has_a_head_and_blanks_at_the_ends_of_lines(tmp_path):
    (tmp_path / "v.txt").write_bytes(b"2 3\nna\xc3\xafve 1 2 3 \ncat 4 5 6 \n")
    found = read_vectors(tmp_path / "v.txt", ["x", " cat", "Naïve"], 3)
    assert {place: list(vector) for place, vector in found.items()} == {1: [4, 5, 6], 2: [1, 2, 3]}


BAD = [
    (b"the 1 2\ncat 3 4\n", "the vectors in {path} have 2 numbers, but the model has embedding_size=3"),
    (b"9 300\nthe 1 2\n", "the vectors in {path} have 300 numbers, but the model has embedding_size=3"),
    (GLOVE + b"dog 1 2\n", "line 6 of {path} must be a word and 3 numbers, but it has 3 fields: b'dog 1 2\\n'"),
    (GLOVE + b"dog 1 2 3 4\n", "line 6 of {path} must be a word and 3 numbers, but it has 5 fields: b'dog 1 2 3 4\\n'"),
    (GLOVE + b"\n", "line 6 of {path} must be a word and 3 numbers, but it has 0 fields: b'\\n'"),
    (GLOVE + b"dogs 1 two 3\n", "line 6 of {path} must be a word and 3 finite numbers: b'dogs 1 two 3\\n'"),
    (GLOVE + b"dogs 1 nan 3\n", "line 6 of {path} must be a word and 3 finite numbers: b'dogs 1 nan 3\\n'"),
    (GLOVE + b"caf\xe9 1 2 3\n", "line 6 of {path} is not UTF-8: b'caf\\xe9 1 2 3\\n'"),
    (
        b"zebra 1 2 3\n",
        "none of the model's {words} words has a pretrained vector: are they of the same language and spelling?",
    ),
    ({"cat": [1, 2]}, "the pretrained vector of 'cat' has shape (2,), but the model has embedding_size=3"),
    ({"cat": [1, 2, math.inf]}, "the pretrained vector of 'cat' has numbers that are not finite, or beyond float32"),
]


@pytest.mark.parametrize("vectors, message", BAD, ids=[message[:50] for _, message in BAD])
def test_wrong_vectors_are_named_before_any_work(vectors, message, tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageModel, "evaluate", lambda *_: pytest.fail("work has begun"))
    words = len(Words.of(split_words(TEXT)[: -round(len(split_words(TEXT)) * 0.1)]))
    if isinstance(vectors, bytes):
        (tmp_path / "v.txt").write_bytes(vectors)
        vectors = tmp_path / "v.txt"
    model = small(embedding_size=3)
    with pytest.raises(ValueError) as caught:
        model.fit(TEXT, **QUICK, pretrained=vectors)
    assert str(caught.value) == message.format(path=tmp_path / "v.txt", words=words)
    assert model.vocabulary is None


def test_a_character_model_still_knows_only_its_characters():
    model = small("character").fit(TEXT, **QUICK | {"epochs": 0})
    assert type(model.vocabulary) is Vocabulary
    with pytest.warns(
        UserWarning,
        match="the text has symbols that this model was not trained on: 'ß'; 1 of 5 symbols: "
        ".* the mean is over the others",
    ):
        found = model.score("the ß")
    assert found == model.score("the ")
    with (
        pytest.warns(UserWarning, match="'ß'"),
        pytest.raises(ValueError, match="this model knows none of the symbols of the text after the first"),
    ):
        model.score("tß")
    with pytest.raises(ValueError, match="the prompt has 1 symbol that this model has not been trained on: 'ß'"):
        model.generate("the ß")


def test_a_file_of_bytes_is_mapped_not_read(tmp_path, monkeypatch):
    data = np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8)
    (tmp_path / "file").write_bytes(data.tobytes())
    fit = dict(epochs=1, batch_size=4, seq_len=20, verbose=False)
    from_bytes = LanguageModel("gru", 8, level="byte", seed=0).fit(data.tobytes(), **fit)
    seen = []
    real = text_parts.Streams
    monkeypatch.setattr(text_parts, "Streams", lambda ids, *sizes: seen.append(ids) or real(ids, *sizes))
    model = LanguageModel("gru", 8, level="byte", seed=0).fit(tmp_path / "file", **fit)
    assert_array_equal(model.storage.flat, from_bytes.storage.flat)
    assert all(isinstance(ids, np.ndarray) and isinstance(root(ids), np.memmap) for ids in seen) and len(seen) == 2
    assert_array_equal(LanguageModel("gru", 8, level="byte", seed=0).fit(data, **fit).storage.flat, model.storage.flat)
    assert model.score(tmp_path / "file") == model.score(data.tobytes())
    with pytest.raises(
        TypeError, match="the text is an array of int64 and shape .3000,., but bytes are uint8 of one axis"
    ):
        model.fit(data.astype(np.int64))


def root(array):
    """Return the array that a view belongs to."""
    while isinstance(array.base, np.ndarray) and not (
        isinstance(array, np.memmap) and not isinstance(array.base, np.memmap)
    ):
        array = array.base
    return array
