"""All commands and their options: what is parsed, what help says and what completion offers.

Nothing here is imported from the commands themselves, so that help and a mistyped command are answered before JAX is
loaded. A command's module has its name, and a `run` that takes what `flags.parse` makes of its arguments.
"""

from s2sjax.commands.options import Command, Option
from s2sjax.metrics.names import BLEU_TOKENIZERS

_WORKDIR = Option("workdir", "Run directory that train wrote.", "DIR", default=None)
_INPUT = Option("input", "File to read; - is standard input.", "FILE|-", default="-")
_OUTPUT = Option("output", "File to write; - is standard output.", "FILE|-", default="-")
_ENSEMBLE = Option(
    "ensemble", "More run directories with the same vocabularies, which are used together with the first.", "DIR,DIR"
)
_SPLITS = ("train", "validation", "test")
_TEXT_OR_JSONL = ("text", "jsonl")
_CONFIG = Option(
    "config",
    "Python file of your own that is run and says what to train, such as those in configs/. What follows a colon is "
    "passed to its get_config. A run directory that exists needs none: it keeps its config.",
    "FILE.py[:ARGUMENT]",
)

_TRAIN = Command(
    name="train",
    summary="Train, or resume a run.",
    description="Writes the run directory: config, tokenizer, checkpoints, metrics and plots. On a run directory that "
    "exists it goes on from the newest checkpoint. Ctrl-C and SIGTERM save and end with code 75; the same command goes "
    "on from there.",
    options=(
        _CONFIG,
        Option("workdir", "Run directory to write, or to go on with.", "DIR", default=None),
    ),
    examples=(
        ("Train.", "train --config=configs/quickstart.py --workdir=runs/phrases"),
        ("With another batch and seed.", "train --config=configs/quickstart.py --workdir=runs/phrases-1 "
         "--config.batching.tokens=2048 --config.seed=1"),
        ("Go on, further than planned.", "train --workdir=runs/phrases --config.train.steps=4000"),
    ),
    config="file",
)  # fmt: skip

_INSPECT = Command(
    name="inspect",
    summary="Show parameters, memory and operations of a config, on devices that need not be there.",
    description="Prints the parameters and how they are split over devices, the memory a device needs, and the "
    "operations of a step. Nothing is trained.",
    options=(
        _CONFIG,
        Option("workdir", "Run directory whose config is inspected, in place of --config.", "DIR"),
        Option("devices", "Number of devices; they need not exist. Empty: those that are here.", "N"),
        Option("platform", "Kind of the devices. Empty: that of those here.", choices=("cpu", "gpu", "tpu")),
        Option("vocab", "Entries of each vocabulary; with it, no data is read.", "N"),
        Option("format", "Tables, or one JSON object.", default="text", choices=("text", "json")),
        Option("compile", "Compile a step too, and show XLA's memory and collectives.", switch=True),
    ),
    examples=(
        ("On eight devices, without data.", "inspect --config=configs/multi30k/transformer_tiny.py --devices=8 "
         "--vocab=8000 --config.mesh.fsdp=8"),
    ),
    config="file",
    sections=("model", "data", "batching", "train", "mesh"),
    alone=True,
)  # fmt: skip

_DECODE = Command(
    name="decode",
    summary="Read lines and write the best hypotheses, in order.",
    description="Plain text has a line for each source: in an output, whatever ends a line for some reader is a "
    "space; JSON lines keep it. With decode.nbest or decode.samples of N, each source has N lines, one after the "
    "other. A blank source stays empty; a language model of plain text begins a text for it. With "
    "decode.max_new_tokens, draws of a language model of joined text (task.join) go on over line ends and are written "
    "with them, a line of dashes between two. Sources over batching.max_source_length are cut, and counted on standard "
    "error.",
    options=(
        _WORKDIR,
        _INPUT,
        Option("prompt", r"One source in place of --input: \n in it is a line end, \t a tab, \\ a backslash.", "TEXT"),
        Option("prompt-file", "A file that is one source, with all its lines, in place of --input.", "FILE"),
        Option("split", "Sources of the run's data in place of --input: train, validation, test, or a name as files "
               "have it; slices work: test[:100]. They are read as in training, line ends within a field too; with "
               "--format=jsonl their references are written too.", "SPLIT", known=_SPLITS),
        _OUTPUT,
        Option("format", "Texts alone; or a JSON object for each source, with all hypotheses, their tokens and "
               "scores.", default="text", choices=_TEXT_OR_JSONL),
        Option("details", "With --format=jsonl, what more is told of each hypothesis: log-probabilities of its tokens "
               "and word alignment; or the attention matrix too.", default="none",
               choices=("none", "tokens", "attention")),
        Option("prefix", "What each output begins with: line N belongs to source N.", "FILE"),
        Option("phrases", "What each output contains: line N belongs to source N, tabs stand between phrases.", "FILE"),
        Option("choices", "Lines, one of which each output has to be.", "FILE"),
        _ENSEMBLE,
    ),
    examples=(
        ("Translate a file.", "decode --workdir=runs/m30k --input=test.en --output=test.de"),
        ("Three best hypotheses with their scores, of lines that are piped in.",
         "decode --workdir=runs/m30k --format=jsonl --config.decode.nbest=3 < test.en"),
        ("Draw three samples for each line.", "decode --workdir=runs/m30k --input=test.en "
         "--config.decode.method=sample --config.decode.samples=3"),
        ("The sources of the test split, with their references.", "decode --workdir=runs/m30k --split=test "
         "--format=jsonl"),
        ("A play of 500 characters, by a language model of joined text.", r"decode --workdir=runs/play "
         r"--prompt='ROMEO:\n' --config.decode.method=sample --config.decode.max_new_tokens=500"),
    ),
    config="run",
    sections=("decode", "mesh"),
)  # fmt: skip

_EVALUATE = Command(
    name="evaluate",
    summary="Print loss and metrics of a split, and write them to DIR/results/SPLIT.json.",
    description="evaluate.metrics says which metrics. What was decoded is written to DIR/results/SPLIT.hyp.jsonl. Of "
    "several sets (data.mixture) or pairs of languages (data.pairs), each has its row. A run directory that cannot be "
    "written is warned of; the table is printed all the same, and the exit code is 0.",
    options=(
        _WORKDIR,
        Option("split", "train, validation, test, or a name as the files have it; slices work: test[:100].", "SPLIT",
               default="test", known=_SPLITS),
        _ENSEMBLE,
    ),
    examples=(
        ("The test split.", "evaluate --workdir=runs/m30k"),
        ("Other metrics, and BLEU of Chinese.",
         "evaluate --workdir=runs/zh --config.evaluate.metrics=\"('bleu', 'ter')\" --config.evaluate.bleu_tokenize=zh"),
        ("Validation, with the last checkpoint and a beam of 10.", "evaluate --workdir=runs/m30k --split=validation "
         "--config.decode.checkpoint=last --config.decode.beam_size=10"),
    ),
    config="run",
    sections=("evaluate", "decode", "mesh"),
)  # fmt: skip

_SCORE = Command(
    name="score",
    summary="Print the log-probability of given targets, one a line, in nats.",
    description="End-of-sentence is counted. A language model of plain text takes --target only. --hypotheses scores "
    "what decode --format=jsonl wrote, by the very tokens that were found.",
    options=(
        _WORKDIR,
        Option("source", "Sources, one a line.", "FILE"),
        Option("target", "Targets, one a line: line N belongs to source N.", "FILE"),
        Option("hypotheses", "Hypotheses to score in place of --source and --target.", "FILE.jsonl"),
        _OUTPUT,
        _ENSEMBLE,
    ),
    examples=(
        ("Score translations.", "score --workdir=runs/m30k --source=test.en --target=test.de"),
        ("Score what another run found.", "score --workdir=runs/m30k --hypotheses=found.jsonl"),
    ),
    config="run",
    sections=("decode", "mesh"),
)

_RERANK = Command(
    name="rerank",
    summary="Choose again among the hypotheses that decode --format=jsonl wrote.",
    description="Either by minimum Bayes risk (--utility), or by the log-probabilities of more runs (--runs, "
    "--channel). A run of several language pairs or sets is named with one of them: DIR:en-de:WEIGHT.",
    options=(
        Option("input", "What decode --format=jsonl wrote; - is standard input.", "FILE.jsonl|-", default="-"),
        _OUTPUT,
        Option("format", "The best text of each line, or the records in their new order.", default="text",
               choices=_TEXT_OR_JSONL),
        Option("utility", "Minimum Bayes risk: the metric by which hypotheses are compared.",
               choices=("chrf", "bleu", "exact_match")),
        Option("tokenize", "With --utility=bleu, how it cuts text into words: as evaluate.bleu_tokenize. Empty: 13a.",
               choices=BLEU_TOKENIZERS),
        Option("weights", "For --utility: how hypotheses count, all the same or by the model's probability. Empty: "
               "uniform.", choices=("uniform", "model")),
        Option("runs", "Run directories that score the hypotheses, each with its weight.", "DIR:WEIGHT,..."),
        Option("channel", "Run directories of the other direction, which score the source given a hypothesis.",
               "DIR:WEIGHT,..."),
        Option("original", "For --runs and --channel: weight of decode's own score. Empty: 1.", "WEIGHT"),
        Option("normalize", "For --runs and --channel: divide by a hypothesis's length. Empty: none.",
               choices=("none", "length")),
    ),
    examples=(
        ("Minimum Bayes risk.", "rerank --input=found.jsonl --utility=chrf"),
        ("A second model and the noisy channel.", "rerank --input=found.jsonl --runs=runs/right-to-left:0.5 "
         "--channel=runs/de-en:0.3"),
    ),
)  # fmt: skip

_ALIGN = Command(
    name="align",
    summary="Print which words of given pairs belong together, by attention.",
    description='Prints "source-target" numbers of words from 0 (Pharaoh): for each target word the source word that '
    "it attends to most. Words are what stands between white space.",
    options=(
        _WORKDIR,
        Option("source", "Sources, one a line.", "FILE", default=None),
        Option("target", "Targets, one a line: line N belongs to source N.", "FILE", default=None),
        _OUTPUT,
        Option("format", "Pairs of numbers, or a JSON object a line with tokens and attention.", default="pharaoh",
               choices=("pharaoh", "jsonl")),
        Option("layer", "Decoder layer whose attention counts: 1 is the lowest, -1 the highest, all is their mean.",
               "all|N", default="all", known=("all",)),
        Option("plot", "Directory to draw each pair's attention into.", "DIR"),
    ),
    examples=(("Align a corpus.", "align --workdir=runs/m30k --source=test.en --target=test.de"),),
    config="run",
    sections=("decode", "mesh"),
)  # fmt: skip

_TAG = Command(
    name="tag",
    summary="Print a hidden Markov model's state for each token.",
    options=(
        _WORKDIR,
        _INPUT,
        _OUTPUT,
        Option("format", "Numbers of states, or a JSON object a line with tokens and states.", default="text",
               choices=_TEXT_OR_JSONL),
    ),
    examples=(("Tag a text.", "tag --workdir=runs/hmm --input=text.txt"),),
    config="run",
    sections=("decode", "mesh"),
)  # fmt: skip

_AVERAGE = Command(
    name="average",
    summary="Average checkpoints of a run into a new run, to decode with.",
    description="Give one of --last, --best and --ema. Keep enough checkpoints while training: checkpoint.keep_last "
    "and keep_best.",
    options=(
        _WORKDIR,
        Option("output", "Run directory to write.", "DIR", default=None),
        Option("last", "Average the N newest checkpoints.", "N"),
        Option("best", "Average the N best checkpoints by checkpoint.metric, of equals the newest.", "N"),
        Option("ema", "Average all checkpoints; each counts DECAY times as much as the next newer one.", "DECAY"),
    ),
    examples=(("The five newest.", "average --workdir=runs/m30k --output=runs/m30k-average --last=5"),),
    config="run",
    sections=("checkpoint",),
    alone=True,
)

_CHECKPOINTS = Command(
    name="checkpoints",
    summary="List the checkpoints of a run, their scores, and which one is used.",
    description="Sizes and scores are those of the manifests; the files themselves are verified when they are used.",
    options=(
        _WORKDIR,
        Option("format", "A table, or one JSON object.", default="text", choices=("text", "json")),
    ),
    examples=(
        ("List them.", "checkpoints --workdir=runs/m30k"),
        ("Which would be best by BLEU.", "checkpoints --workdir=runs/m30k --config.checkpoint.metric=bleu"),
    ),
    config="run",
    sections=("checkpoint",),
    alone=True,
)

_COMPARE = Command(
    name="compare",
    summary="Compare runs: what differs in their configs, what was measured, and their curves in one plot.",
    description="Prints what differs in config, how far each run came, its best validation (of equals the newest), and "
    "what evaluate wrote to results/. Runs that differ in the seed only get a column with mean and sample standard "
    "deviation.",
    options=(
        Option("plot", "Picture of losses and validation scores of all runs; its name ends in .png, .svg or .pdf.",
               "FILE.png"),
        Option("by", "What the plot's curves run along: steps, or seconds of training.", default="steps",
               choices=("steps", "seconds")),
        Option("format", "A table, or one JSON object.", default="text", choices=("text", "json")),
    ),
    examples=(
        ("Three seeds: train them, evaluate them, compare them.",
         "compare runs/seed-0 runs/seed-1 runs/seed-2 --plot=seeds.png"),
    ),
    alone=True,
    arguments="RUN...",
)  # fmt: skip

_GOODPUT = Command(
    name="goodput",
    summary="Show where the time went in which a run's processes ran, over all starts.",
    description="Time when nothing ran, such as that between two starts, is no part of it. It is shown below the "
    "table, together with what a process that was killed did after its last record.",
    options=(_WORKDIR,),
    examples=(("Of one run.", "goodput --workdir=runs/m30k"),),
    alone=True,
)

_COMPLETION = Command(
    name="completion",
    summary="Print a script that completes commands, options and config keys in a shell.",
    description='SHELL is bash, zsh or fish. In ~/.bashrc: eval "$(s2sjax completion bash)". In ~/.zshrc, after '
    'compinit: eval "$(s2sjax completion zsh)". In fish: s2sjax completion fish | source.',
    examples=(("The script for bash.", "completion bash"),),
    arguments="SHELL",
)

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        _TRAIN, _INSPECT, _DECODE, _EVALUATE, _SCORE, _RERANK, _ALIGN, _TAG, _CHECKPOINTS, _COMPARE, _AVERAGE,
        _GOODPUT, _COMPLETION,
    )
}  # fmt: skip
