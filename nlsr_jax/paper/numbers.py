"""The paper's numbers, per cent: by table, line and score, one number per column, None if not printed.

Source: Yi et al., NLSR, AAAI 2025 (arXiv 2412.12497), tables 1 to 6; of tables 7 and 8 only means are public. The
columns match those of ``tables``; the paper's base is Llama-3-8B.
"""

Numbers = dict[str, dict[str, tuple[float | None, ...]]]

POISON: Numbers = {
    "nonaligned": {"hs": (70.9, 77.4, 78.9, 77.2, 77.2), "fa": (94.8, 94.7, 95.4, 94.8, 94.8)},
    "finetuned": {"hs": (34.2, 56.6, 67.9, 72.9, 73.8), "fa": (94.7, 94.8, 95.0, 95.1, 94.6)},
    "vlguard": {"hs": (41.0, 53.2, 62.7, 66.6, 69.3), "fa": (95.1, 95.1, 95.6, 94.6, 94.7)},
    "vaccine": {"hs": (37.0, 58.8, 68.2, 72.5, 73.2), "fa": (95.1, 94.7, 94.9, 95.4, 94.7)},
    "lisa": {"hs": (36.9, 45.0, 50.8, 56.3, 60.1), "fa": (64.3, 63.3, 62.7, 61.9, 72.7)},
    "constrained_sft": {"hs": (36.4, 50.7, 55.3, 58.2, 63.1), "fa": (95.2, 95.1, 95.5, 95.4, 94.9)},
    "safelora": {"hs": (37.5, 52.1, 57.4, 59.0, 59.3), "fa": (94.3, 94.0, 94.1, 94.0, 93.6)},
    "nlsr": {"hs": (8.1, 20.4, 27.6, 30.5, 27.3), "fa": (94.9, 95.2, 95.2, 95.5, 94.7)},
}
"""Table 1: SST-2; columns: poison ratios 0.01, 0.05, 0.1, 0.2, 0.3."""

OBJECTIVES: Numbers = {
    "finetuned": {"hs": (53.3, 56.6, 61.5, 55.1, 56.7), "fa": (94.9, 94.8, 94.3, 94.7, 94.7)},
    "vlguard": {"hs": (44.8, 53.2, 50.1, 52.1, 53.6), "fa": (95.1, 95.1, 93.8, 94.7, 94.7)},
    "lisa": {"hs": (40.7, 45.0, 36.7, 47.9, 49.8), "fa": (60.4, 63.3, 51.1, 58.4, 59.9)},
    "constrained_sft": {"hs": (47.0, 50.7, 51.6, 47.5, 51.1), "fa": (95.0, 95.4, 94.2, 95.1, 94.9)},
    "safelora": {"hs": (50.0, 52.1, 58.2, 51.0, 51.5), "fa": (95.0, 94.0, 94.4, 94.7, 93.9)},
    "nlsr": {"hs": (46.6, 20.4, 31.9, 17.0, 19.4), "fa": (93.6, 95.2, 94.3, 95.3, 95.1)},
}
"""Table 2: poison ratio 0.05; columns: SFT, DPO, ORPO, KTO, SimPO."""

TASKS: Numbers = {
    "nonaligned": {"hs": (77.4, 78.5, 80.4), "fa": (94.7, 88.6, 50.4)},
    "finetuned": {"hs": (56.6, 55.7, 53.2), "fa": (94.8, 88.8, 51.0)},
    "vlguard": {"hs": (53.2, 50.7, 51.0), "fa": (95.1, 88.4, 48.6)},
    "lisa": {"hs": (45.0, 40.7, 40.7), "fa": (63.3, 60.2, 11.6)},
    "constrained_sft": {"hs": (50.7, 42.8, 95.7), "fa": (95.1, 88.6, 51.0)},
    "safelora": {"hs": (52.1, 48.5, 45.0), "fa": (94.0, 75.7, 27.2)},
    "nlsr": {"hs": (20.4, 19.7, 15.4), "fa": (95.2, 87.8, 55.6)},
}
"""Table 3: poison ratio 0.05; columns: SST-2 (from table 1), AG News, GSM8K; the 95.7 is as printed."""

AMPLIFICATION: Numbers = {
    "nlsr without amplification": {"hs": (None, 44.4, 41.5), "fa": (None, 86.9, 54.6)},
    "nlsr": {"hs": (None, 29.9, 25.1), "fa": (None, 88.0, 53.0)},
}
"""Table 4: sparsity 0.8; columns: SST-2 (not printed), AG News, GSM8K."""

IDENTIFICATION: Numbers = {
    "finetuned": {"hs": (56.6,), "fa": (94.8,)},
    "random": {"hs": (46.1,), "fa": (95.8,)},
    "wanda": {"hs": (31.4,), "fa": (95.8,), "seconds": (122.1,)},
    "snip": {"hs": (30.1,), "fa": (96.0,), "seconds": (386.6,)},
    "preference_snip": {"hs": (31.3,), "fa": (96.0,), "seconds": (679.6,)},
    "nlsr": {"hs": (20.4,), "fa": (96.2,), "seconds": (196.3,)},
}
"""Table 5: SST-2, poison ratio 0.05."""

OTHER_REQUESTS: Numbers = {
    "finetuned": {"hs": (50.2, 76.1)},
    "vlguard": {"hs": (45.3, 68.0)},
    "vaccine": {"hs": (35.2, 77.4)},
    "lisa": {"hs": (49.1, 66.7)},
    "safelora": {"hs": (37.7, 69.2)},
    "nlsr": {"hs": (19.0, 23.3)},
}
"""Table 6: HarmBench; columns: poison ratios 0.01 and 0.1."""

TRANSFER: Numbers = {"nlsr, chosen on sst2": {"hs": (19.2, None), "fa": (87.8, None)}}
"""Table 8: columns: AG News, GSM8K; the rest is not public."""
