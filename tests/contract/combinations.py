"""Combinations that are tried beside one method after the other: data, since no class can say them."""

from __future__ import annotations

from typing import Any

TOGETHER = ("ewc", "replay", "l2")
# Unlearners that are also tried on several plugins together; what they do to a learner, all others do too.
ON_BOTH = ("none", "retrain", "finetune", "gradient-ascent", "neggrad-plus", "ssd")
# Of what is tried at night alone, these are tried by default, in all forms.
SAMPLE = ("ewc+retrain", "replay+retrain", "er-ace+cpr+l2+finetune", "exssnet(private)")
# Options that change what is kept or read.
VARIANTS: dict[str, dict[str, Any]] = {
    "ewc+replay+refresh+none": {
        "learner": ["ewc", {"name": "replay", "memory": 30, "batch": 8}, "refresh"],
        "unlearner": "none",
    },
    "der-plus-plus+refresh(released)+retrain": {
        "learner": [
            {"name": "der-plus-plus", "memory": 30, "batch": 8},
            {"name": "refresh", "form": "released", "delta": 1e-3},
        ],
        "unlearner": "retrain",
    },
    "er-ace+cpr+l2+finetune": {
        "learner": [{"name": "er-ace", "memory": 30, "batch": 8}, "cpr", "l2"],
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "si+agem+refresh+finetune": {
        "learner": ["si", {"name": "agem", "memory": 30, "batch": 8}, {"name": "refresh", "steps": 2}],
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "lwf+der(final)+gradient-ascent": {
        "learner": ["lwf", {"name": "der", "memory": 20, "batch": 8, "stored": "final"}],
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
    },
    "online-ewc(decay)+finetune": {
        "learner": {"name": "online-ewc", "decay": 0.9},
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "ewc(drop)+none": {"learner": {"name": "ewc", "strength": 10.0, "on_deletion": "drop"}, "unlearner": "none"},
    "ewc(recompute)+finetune": {
        "learner": {"name": "ewc", "strength": 10.0, "on_deletion": "recompute"},
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "lwf+si+replay+finetune": {
        "learner": ["lwf", "si", {"name": "replay", "memory": 30, "batch": 8}],
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "replay(class-balanced)+none": {
        "learner": {"name": "replay", "memory": 30, "batch": 8, "policy": "class-balanced"},
        "unlearner": "none",
    },
    "importance-log+replay+ssd(stored)": {
        "learner": ["importance-log", {"name": "replay", "memory": 30, "batch": 8}],
        "unlearner": {"name": "ssd", "whole": "stored", "alpha": 2.0},
    },
    "replay+ssd(memory)": {
        "learner": {"name": "replay", "memory": 30, "batch": 8},
        "unlearner": {"name": "ssd", "whole": "memory", "alpha": 2.0},
    },
    "replay+salun(soft, memory)": {
        "learner": {"name": "replay", "memory": 30, "batch": 8},
        "unlearner": {"name": "salun", "form": "soft", "retained": "memory", "epochs": 1},
    },
    "naive+influence(woodfisher)": {
        "learner": "naive",
        "unlearner": {"name": "influence", "form": "woodfisher", "samples": 20, "damping": 1.0},
    },
    "naive+npo(alone)": {"learner": "naive", "unlearner": {"name": "npo", "retain": "none", "epochs": 1}},
    "replay+finetune(memory)": {
        "learner": {"name": "replay", "memory": 30, "batch": 8},
        "unlearner": {"name": "finetune", "epochs": 2, "batch_size": 64, "retained": "memory"},
    },
    "adapt-infinity(lite)+replay+retrain": {
        "learner": [
            {"name": "adapt-infinity", "share": 0.6, "width": 32, "pool": 60, "readmit": True},
            {"name": "replay", "memory": 30, "batch": 8},
        ],
        "unlearner": "retrain",
    },
    "adapt-infinity(lite)+ewc+finetune": {
        "learner": [
            {
                "name": "adapt-infinity",
                "share": 0.6,
                "projection": "tensor-sketch",
                "pool": 60,
                "redundancy": "gradient",
            },
            "ewc",
        ],
        "unlearner": {"name": "trained-only", "method": {"name": "finetune", "epochs": 1}},
    },
    "exssnet(none)": {"isolated": {"name": "exssnet", "density": 0.2, "repair": "none"}},
    "exssnet(private)": {"isolated": {"name": "exssnet", "density": 0.2, "keep": "private"}},
    "ssnet(kkt,none)": {
        "isolated": {"name": "ssnet", "density": 0.2, "kkt": "best", "repair": "none", "erase": False},
    },
    "supsup(kkt)": {"isolated": {"name": "supsup", "density": 0.2, "kkt": "all", "inference": "binary"}},
    "certified-head(cold)": {"isolated": {"name": "certified-head", "l2": 0.01, "start": "cold", "sigma": 0.0}},
    "avalanche(replay)+retrain": {
        "learner": {
            "name": "avalanche",
            "plugins": [{"plugin": "avalanche.training.plugins.ReplayPlugin", "options": {"mem_size": 30}}],
            "retained": 30,
        },
        "unlearner": "retrain",
    },
}


SMALL_O3 = {"name": "o3", "epochs": 1, "rank": 4, "encoder": {"rank": 4}}
# What else is tried on text.
ON_TEXT: dict[str, dict[str, Any]] = {
    "replay+retrain": {"learner": {"name": "replay", "memory": 10, "batch": 4}, "unlearner": "retrain"},
    "ewc+replay+l2+refresh+neggrad-plus": {
        "learner": [{"name": "ewc", "fisher": "batch"}, {"name": "replay", "memory": 10, "batch": 4}, "l2", "refresh"],
        "unlearner": {"name": "neggrad-plus", "epochs": 1},
    },
    "si+online-ewc+gradient-ascent": {
        "learner": ["si", {"name": "online-ewc", "fisher": "batch"}],
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
    },
    "agem+finetune": {
        "learner": {"name": "agem", "memory": 10, "batch": 4},
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "first-reference+npo(kl,first)": {
        "learner": "first-reference",
        "unlearner": {"name": "npo", "epochs": 1, "retain": "kl", "reference": "first"},
    },
    "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2, "aggregate": "mean"}},
    "naive+graddiff(none)": {"learner": "naive", "unlearner": {"name": "graddiff", "epochs": 1, "retain": "none"}},
    "independent": {"isolated": "independent"},
    "o-lora+replay+random-label": {
        "learner": [{"name": "o-lora", "rank": 4}, {"name": "replay", "memory": 10, "batch": 4}],
        "unlearner": {"name": "random-label", "epochs": 1, "batch_size": 16, "redraw": "epoch"},
    },
    "o3(resume, frozen encoder)": {
        "guard": {
            "name": "o3",
            "epochs": 1,
            "rank": 4,
            "adapters": "resume",
            "gate": "hard",
            "gamma": 0.0,
            "encoder": {"rank": 4, "epochs": 0},
        }
    },
    "in-context(all)": {"guard": {"name": "in-context", "applies": "all"}},
    "in-context(refusal)": {"guard": {"name": "in-context", "form": "refusal"}},
    "replay+ewc+o3": {
        "learner": [{"name": "replay", "memory": 10, "batch": 4}, {"name": "ewc", "fisher": "batch"}],
        "guard": SMALL_O3,
    },
    "o-lora+retrain+o3": {
        "learner": {"name": "o-lora", "rank": 4},
        "unlearner": "retrain",
        "guard": SMALL_O3,
    },
    "lora+gradient-ascent+in-context": {
        "learner": {"name": "lora", "rank": 4},
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
        "guard": "in-context",
    },
    "adapt-infinity+retrain": {
        "learner": {
            "name": "adapt-infinity",
            "share": 0.7,
            "width": 32,
            "selectors": ["perplexity", "grand", "context-grounding"],
        },
        "unlearner": "retrain",
    },
    "semdedup+none": {"learner": {"name": "semdedup", "share": 0.7}, "unlearner": "none"},
}


# What is tried on text with pictures.
ON_PICTURES: dict[str, dict[str, Any]] = {
    "naive+npo": {"learner": "naive", "unlearner": {"name": "npo", "epochs": 1}},
    "cumulative+none": {"learner": "cumulative", "unlearner": "none"},
    "ewc+replay+retrain": {
        "learner": [{"name": "ewc", "fisher": "batch"}, {"name": "replay", "memory": 10, "batch": 4}],
        "unlearner": "retrain",
    },
    "replay+gradient-ascent": {
        "learner": {"name": "replay", "memory": 10, "batch": 4},
        "unlearner": {"name": "gradient-ascent", "epochs": 1},
    },
    "replay+idk": {
        "learner": {"name": "replay", "memory": 10, "batch": 4},
        "unlearner": {"name": "idk", "epochs": 1},
    },
}


# What is tried on image generators.
ON_IMAGES: dict[str, dict[str, Any]] = {
    "ewc+replay+retrain": {
        "learner": ["ewc", {"name": "replay", "memory": 30, "batch": 8}],
        "unlearner": "retrain",
    },
    "l2+ssd": {"learner": "l2", "unlearner": {"name": "ssd", "alpha": 2.0}},
    "si+graddiff": {"learner": "si", "unlearner": {"name": "graddiff", "epochs": 1}},
    "der-plus-plus(final)+finetune": {
        "learner": {"name": "der-plus-plus", "memory": 20, "batch": 8, "stored": "final"},
        "unlearner": {"name": "finetune", "epochs": 1},
    },
    "sisa": {"isolated": {"name": "sisa", "shards": 2, "slices": 2, "aggregate": "mean"}},
}
