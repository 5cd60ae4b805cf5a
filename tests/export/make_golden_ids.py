"""Writes tests/fixtures/tokenizers: small vocabularies, and the ids and cleaned texts that the original libraries give.

Run it in the environment of tests/export, as `python tests/export/make_golden_ids.py`; it needs open_clip_torch,
transformers, tokenizers, sentencepiece and nltk 3.9.1, which Merlin was tested with (from 3.10 on its words take in
combining marks), and no network. The texts are tests/fixtures/tokenizers/texts.json.
The WordPiece vocabulary is the real one of BERT, from models/minilm; that of CLIP is the real one up to a merge; the
others are trained here on the documentation, of the same kind as the originals.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import lzma
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "fixtures" / "tokenizers"
CLIP_MERGES = 1500
WIDTH = 32


def corpus() -> list[str]:
    pages = [page.read_text() for page in sorted((ROOT / "docs").glob("*.md"))]
    return [line for page in pages for line in page.splitlines() if line]


def texts() -> list[str]:
    found: list[str] = json.loads((FOLDER / "texts.json").read_text())
    return found


def write_clip() -> Path:
    """Keep the beginning of CLIP's merges, which open_clip ships under the MIT licence."""
    import open_clip

    whole = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(whole.read_bytes()).decode().split("\n")[: CLIP_MERGES + 1]
    path = FOLDER / "clip" / whole.name
    path.parent.mkdir(exist_ok=True)
    # open_clip takes a line after the last merge for one more, so there is none
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    return path


def write_byte_bpe() -> Path:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(corpus(), vocab_size=900, show_progress=False, special_tokens=special)
    folder = FOLDER / "byte-bpe"
    folder.mkdir(exist_ok=True)
    trained.save_model(str(folder))
    return folder


def write_conch() -> Path:
    """Train a tokenizer with the parts of CONCH's: no accents, small letters, bytes, a space in front."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    special = ["<pad>", "<start_of_text>", "<end_of_text>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=special, initial_alphabet=letters),
    )
    made.post_processor = processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>", special_tokens=[("<start_of_text>", 1), ("<end_of_text>", 2)]
    )
    return save(made, "conch")


def write_siglip2() -> Path:
    """Train a tokenizer with the parts of Gemma's, as SigLIP2 uses it: small letters, marked spaces, bytes else."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(
        [line.lower() for line in corpus()],
        trainers.BpeTrainer(vocab_size=900, show_progress=False, special_tokens=special),
    )
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    made = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.add_special_tokens(special[:5])
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return save(made, "siglip2")


def save(made: Any, name: str) -> Path:
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(made.to_str())
    return folder


def write_siglip() -> Path:
    """Train a unigram model with T5's numbering and rules, and return a folder with it."""
    import sentencepiece

    scratch = Path(tempfile.mkdtemp())
    (scratch / "lines.txt").write_text("\n".join(line.lower() for line in corpus()))
    sentencepiece.SentencePieceTrainer.train(
        input=str(scratch / "lines.txt"),
        model_prefix=str(scratch / "spiece"),
        vocab_size=600,
        model_type="unigram",
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder = FOLDER / "siglip"
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model.xz").write_bytes(lzma.compress((scratch / "spiece.model").read_bytes()))
    return scratch / "spiece.model"


def wordpiece(lower_case: bool) -> Path:
    vocabulary = json.loads((ROOT / "models" / "minilm" / "tokenizer.json").read_text())["model"]["vocab"]
    folder = Path(tempfile.mkdtemp())
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.__getitem__)))
    config = {"do_lower_case": lower_case, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def transformers_clip(bpe: Path) -> Path:
    """Write what a hub holds of the same vocabulary: other names for the special tokens, the same ids."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(bpe_path=str(bpe))
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    folder = Path(tempfile.mkdtemp())
    vocabulary = {names.get(token, token): i for token, i in tokenizer.encoder.items()}
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    return folder


def ids() -> dict[str, Any]:
    import transformers
    from nltk.tokenize import wordpunct_tokenize
    from open_clip import tokenizer as open_clip

    bpe, siglip, byte_bpe = write_clip(), write_siglip(), write_byte_bpe()
    conch, siglip2 = write_conch(), write_siglip2()

    def hub(tokenizer: Any, prepare: Callable[[str], str] = str) -> Callable[[str], list[int]]:
        options = {"padding": "max_length", "truncation": True, "max_length": WIDTH}
        return lambda text: tokenizer(prepare(text), **options)["input_ids"]

    def ready(folder: Path, **special: str) -> Any:
        return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)

    simple = open_clip.SimpleTokenizer(bpe_path=str(bpe), context_length=WIDTH)
    wrapped = open_clip.HFTokenizer(str(wordpiece(True)), context_length=WIDTH)
    t5 = transformers.T5Tokenizer.from_pretrained(siglip.parent, extra_ids=0, pad_token="</s>")
    siglip_config = FOLDER / "siglip" / "tokenizer_config.json"
    siglip_config.write_text(json.dumps({"pad_token": "</s>", "eos_token": "</s>"}))
    originals: dict[str, Callable[[str], list[int]]] = {
        "open_clip SimpleTokenizer": lambda text: simple([text])[0].tolist(),
        "open_clip HFTokenizer of BERT": lambda text: wrapped([text])[0].tolist(),
        "open_clip canonicalize, T5Tokenizer": hub(t5, open_clip.get_clean_fn("canonicalize")),
        "CLIPTokenizer": hub(transformers.CLIPTokenizer.from_pretrained(transformers_clip(bpe))),
        "BertTokenizer": hub(transformers.BertTokenizer.from_pretrained(wordpiece(True))),
        "BertTokenizer, capitals kept": hub(transformers.BertTokenizer.from_pretrained(wordpiece(False))),
        "RobertaTokenizer": hub(transformers.RobertaTokenizer.from_pretrained(byte_bpe)),
        "Merlin's sanitize_report, RobertaTokenizer": hub(
            transformers.RobertaTokenizer.from_pretrained(byte_bpe),
            lambda text: " ".join(wordpunct_tokenize(text.lower())),
        ),
        "SiglipTokenizer": hub(transformers.SiglipTokenizer(str(siglip), pad_token="</s>")),
        "PreTrainedTokenizerFast as CONCH": hub(ready(conch, pad_token="<pad>")),
        "PreTrainedTokenizerFast as SigLIP2": hub(ready(siglip2, pad_token="<pad>", padding_side="right")),
    }
    return {name: [original(text) for text in texts()] for name, original in originals.items()}


def cleaned() -> dict[str, list[str]]:
    import transformers
    from nltk.tokenize import wordpunct_tokenize
    from open_clip.tokenizer import get_clean_fn

    with lzma.open(FOLDER / "siglip" / "spiece.model.xz") as stream:
        model = Path(tempfile.mkdtemp()) / "spiece.model"
        model.write_bytes(stream.read())
    siglip = transformers.SiglipTokenizer(str(model))
    originals: dict[str, Callable[[str], str]] = {
        "open_clip_whitespace": get_clean_fn("whitespace"),
        "open_clip_lower": get_clean_fn("lower"),
        "open_clip_canonicalize": get_clean_fn("canonicalize"),
        "siglip": siglip.canonicalize_text,
        "merlin": lambda text: " ".join(wordpunct_tokenize(text.lower())),
    }
    return {rule: [original(text) for text in texts()] for rule, original in originals.items()}


def main() -> None:
    names = ("open_clip_torch", "transformers", "tokenizers", "sentencepiece", "nltk", "ftfy")
    golden = {
        "versions": {name: importlib.metadata.version(name) for name in names},
        "ids": ids(),
        "cleaned": cleaned(),
    }
    text = json.dumps(golden, indent=1)
    one_line = re.sub(r"\[\s+(\d[\d,\s]*?)\s+\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)
    (FOLDER / "golden.json").write_text(one_line + "\n")


if __name__ == "__main__":
    main()
