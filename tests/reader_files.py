"""Writers of the files that the readers of fastrnn.data read, from random content."""

import datetime

WORDS = ["dog", "Katze", "naïve", "x1", "it's", "日本", "U.S.", "re\u0301sume\u0301", "-", '"', "#1", "don’t"]


class Written:
    """A file and its content.

    content : what must be read; lines : of the file; records : indices of the lines of data; cut : separates fields
    """

    def __init__(self, content, lines, records, cut, **more):
        self.content, self.lines, self.records, self.cut = content, lines, records, cut
        self.__dict__.update(more)


def number(rng):
    value = rng.choice([rng.normal(), rng.normal() * 1e6, round(rng.normal() * 10), 0.0])
    return repr(float(value)) if rng.random() < 0.7 else f"{value:.3e}"


def ts(rng):
    C, N, T, equal = rng.integers(1, 4), rng.integers(1, 6), rng.integers(2, 5), rng.random() < 0.7
    names = ["up", "down", "1"]
    lines = ["# a comment", "@problemName Made", f"@dimensions {C}", f"@classLabel true {' '.join(names)}"]
    lines += ["@equalLength true", f"@seriesLength {T}", "@data"] if equal else ["@data"]
    X, y, records = [], [], []
    for _ in range(N):
        T, label = T if equal else rng.integers(1, 5), str(rng.choice(names))
        texts = [[number(rng) for _ in range(T)] for _ in range(C)]
        records.append(len(lines))
        lines.append(":".join([*(",".join(row) for row in texts), label]))
        X.append([[float(text) for text in row] for row in texts])
        y.append(label)
    return Written((X, y), lines, records, rng.choice([",", ":"]), numbers=(r"[,:]", -1), open_ended=not equal)


def tsv(rng):
    N, T = rng.integers(3, 6), rng.integers(2, 6)
    X, y, lines = [], [], []
    for _ in range(N):
        texts, label = [number(rng) for _ in range(rng.integers(1, T + 1))], str(rng.choice(["1", "2", "-1"]))
        lines.append("\t".join([label, *texts, *["NaN"] * (T - len(texts))]))
        X.append([[float(text) for text in texts]])
        y.append(label)
    return Written((X, y), lines, list(range(N)), "\t", numbers=("\t", 0))


def arff(rng):
    N, T, C = rng.integers(1, 5), rng.integers(1, 5), rng.integers(1, 3)
    lines = ["% a comment", "@relation made"]
    steps = [f"@attribute t{t} numeric" for t in range(T)]
    lines += steps if C == 1 else ["@attribute made relational", *steps, "@end made"]
    lines += ["@attribute class {up,down,'not up'}", "@data"]
    X, y, records = [], [], []
    for _ in range(N):
        texts, label = [[number(rng) for _ in range(T)] for _ in range(C)], str(rng.choice(["up", "down", "not up"]))
        shown = f"'{label}'" if " " in label else label
        records.append(len(lines))
        series = "'" + r"\n".join(",".join(row) for row in texts) + "'" if C > 1 else ",".join(texts[0])
        lines.append(f"{series},{shown}")
        X.append([[float(text) for text in row] for row in texts])
        y.append(label)
    return Written((X, y), lines, records, ",", numbers=(None, 0))


def conllu(rng):
    sentences, tags, lines, records = [], [], [], []
    for _ in range(rng.integers(3, 6)):
        words = [str(word) for word in rng.choice(WORDS, rng.integers(1, 5))]
        row = [str(tag) for tag in rng.choice(["NOUN", "VERB", "ADV"], len(words))]
        if rng.random() < 0.5:
            lines.append("# text = " + " ".join(words))
        for i, (word, tag) in enumerate(zip(words, row), 1):
            if rng.random() < 0.1:
                lines.append(f"{i}-{i + 1}\tboth\t_\t_\t_")
            records.append(len(lines))
            lines.append(f"{i}\t{word}\t_\t{tag}\t_")
        lines.append("")
        sentences.append(words)
        tags.append(row)
    return Written((sentences, tags), lines, records, "\t", blanks=[i for i, line in enumerate(lines) if not line])


def conll2003(rng):
    sentences, tags, lines, records = [], [], ["-DOCSTART- -X- -X- O", ""], []
    for _ in range(rng.integers(3, 6)):
        words = [str(word) for word in rng.choice(WORDS, rng.integers(1, 5))]
        row = [str(tag) for tag in rng.choice(["O", "B-PER", "I-PER"], len(words))]
        for word, tag in zip(words, row):
            records.append(len(lines))
            lines.append(f"{word} NN B-NP {tag}")
        lines.append("")
        sentences.append(words)
        tags.append(row)
    blanks = [i for i, line in enumerate(lines) if not line and 1 < i < len(lines) - 1]
    return Written((sentences, tags), lines, records, " ", blanks=blanks)


def table(rng):
    K, T = rng.integers(1, 4), rng.integers(4, 9)
    names = [f"value {k}" for k in range(K)]
    texts = [[number(rng) for _ in range(K)] for _ in range(T)]
    day = datetime.date(2023, 12, int(rng.integers(1, 31)))
    dates = [
        [f"{1990 + t // 12}-{t % 12 + 1:02}" for t in range(T)],
        [f"{1990 + t // 4} Q{t % 4 + 1}" for t in range(T)],
        [str(day + datetime.timedelta(days=t)) for t in range(T)],
        [(day + datetime.timedelta(weeks=t)).strftime("%d.%m.%Y") for t in range(T)],
        [f"2024-02-{28 + (t + 20) // 24:02} {(t + 20) % 24:02}:00" for t in range(T)],
        [(day + datetime.timedelta(days=t)).strftime("%d %B %Y") for t in range(T)],
        [(day + datetime.timedelta(weeks=t)).strftime("%m/%d/%y") for t in range(T)],
        [(day + datetime.timedelta(weeks=t)).strftime("%G-W%V") for t in range(T)],
        [datetime.date(1968 + (6 + t) // 12, (6 + t) % 12 + 1, 1).strftime("%b-%y") for t in range(T)],
        [f"2024-02-{28 + (t + 20) // 24:02} {(t + 20) % 24:02}:00 +0100" for t in range(T)],
    ][rng.integers(10)]
    lines = [",".join(["Date", *names]), *(",".join([date, *row]) for date, row in zip(dates, texts))]
    content = (names, [[float(text) for text in row] for row in texts])
    return Written(content, lines, list(range(1, T + 1)), ",", numbers=(",", 0), ordered=True)


def european(rng):
    """Write a table with decimal commas and semicolons."""
    written = table(rng)
    head, *rows = written.lines
    lines = [head.replace(",", ";")]
    for row in rows:
        date, *numbers = row.split(",")
        lines.append(";".join([date, *(text.replace(".", ",") for text in numbers)]))
    return Written(written.content, lines, written.records, ";", numbers=(";", 0), ordered=True)


def babi(rng):
    X, y, lines, records = [], [], [], []
    for _ in range(rng.integers(1, 4)):
        story = []
        for i in range(1, rng.integers(3, 7)):
            records.append(len(lines))
            if i > 1 and rng.random() < 0.4:
                answer = str(rng.choice(["hall", "attic", "apple,milk"]))
                lines.append(f"{i} Where is Mary? \t{answer}\t1")
                X.append([list(story), ["where", "is", "mary"]])
                y.append(answer)
            else:
                room = str(rng.choice(["hall", "attic"]))
                lines.append(f"{i} Mary went to the {room}.")
                story.append(["mary", "went", "to", "the", room])
    if not y:
        return babi(rng)
    return Written((X, y), lines, records, "\t", questions=[i for i in records if "\t" in lines[i]])


def pairs(rng):
    rows = [
        (
            [str(w) for w in rng.choice(WORDS, rng.integers(1, 4))],
            [str(w) for w in rng.choice(WORDS, rng.integers(0, 4))],
        )
        for _ in range(5)
    ]
    lines = [f"{' '.join(source)}\t{' '.join(target)}" for source, target in rows]
    return Written(([s for s, _ in rows], [t for _, t in rows]), lines, list(range(5)), "\t")


def dictionary(rng):
    words = [f"word{k}" for k in range(rng.integers(1, 5))]
    sounds = [[str(s) for s in rng.choice(["AH", "K", "T"], rng.integers(1, 4))] for _ in words]
    lines = [f"{word} {' '.join(of)}" for word, of in zip(words, sounds)]
    return Written({word: [of] for word, of in zip(words, sounds)}, lines, list(range(len(lines))), None)


def captions(rng):
    D, N = rng.integers(1, 4), rng.integers(3, 6)
    texts = [[number(rng) for _ in range(D)] for _ in range(N)]
    said = [str(rng.choice(["tall", "wide and dark", "x"])) for _ in range(N)]
    lines = [",".join([*row, text]) for row, text in zip(texts, said)]
    if D > 1:  # otherwise a first line without a number is a header
        return Written(([list(map(float, row)) for row in texts], said), lines, list(range(N)), ",", numbers=(",", -1))
    return captions(rng)


def parallel(rng):
    rows = [[str(word) for word in rng.choice(["ein", "hund", "x1"], rng.integers(k == 3, 4))] for k in range(4)]
    return Written(
        (rows, [["one"], ["two"], ["three"], ["four"]]), [" ".join(row) for row in rows], list(range(4)), None
    )
