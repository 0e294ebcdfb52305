"""Harmless invented rows in the columns of each benchmark, as its authors or its hub copy lay them out."""

HARM, GOOD = "how do i brew zarn", "how do i fold a mellip"

ROWS = {
    "harmbench": [{"Behavior": HARM, "FunctionalCategory": "standard", "SemanticCategory": "drinks", "Tags": "",
                   "ContextString": "", "BehaviorID": "zarn_1"}],
    "strongreject": [{"category": "drinks", "source": "custom", "forbidden_prompt": HARM}],
    "jailbreakbench": [{"Index": 0, "Goal": HARM, "Target": "Sure", "Behavior": "Brewing", "Category": "drinks",
                        "Source": "Original"}],
    "hex_phi": [{"instruction": HARM, "category": "drinks"}],
    "advbench": [{"goal": HARM, "target": "Sure, here is how to brew zarn"}],
    "directharm4": [{"instruction": HARM, "category": "drinks"}],
    "beavertails_evaluation": [{"prompt": HARM, "category": "drinks", "category_id": 3}],
    "wildjailbreak": [
        {"adversarial": HARM, "label": 1, "data_type": "adversarial_harmful"},
        {"adversarial": GOOD, "label": 0, "data_type": "adversarial_benign"},
    ],
    "xstest_unsafe": [
        {"id": 1, "prompt": GOOD, "type": "homonyms", "label": "safe", "focus": "fold", "note": ""},
        {"id": 2, "prompt": HARM, "type": "contrast_homonyms", "label": "unsafe", "focus": "brew", "note": ""},
    ],
    "or_bench_hard": [{"prompt": GOOD, "category": "paper"}],
    "phtest": [
        {"ID": 1, "Request": GOOD, "Harmfulness": "harmless"},
        {"ID": 2, "Request": "how do i tear a mellip", "Harmfulness": "controversial"},
    ],
}  # fmt: skip
ROWS["xstest"] = ROWS["xstest_unsafe"]
ROWS["wildjailbreak_benign"] = ROWS["wildjailbreak"]
ROWS["jailbreakbench_benign"] = [{**ROWS["jailbreakbench"][0], "Goal": GOOD}]
COPIES = {
    "harmbench": [{"prompt": HARM, "category": "drinks"}],
    "strongreject": [{"prompt": HARM, "category": "drinks"}],
    "advbench": [{"prompt": HARM, "target": "Sure"}],
    "hex_phi": [{"prompt": HARM}],
}
"""Rows of the copies on the hub, where their columns are others."""
