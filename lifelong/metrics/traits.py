"""What the numbers mean that the strategies of this project tell of themselves (`Outcome.traits`)."""

from __future__ import annotations

from strategies.metric import Metric

METRICS: dict[str, Metric] = {
    "stages": Metric("Stages of training that the event ran (strategies that train in stages).", "stages", "lower"),
    "stranded_samples": Metric(
        "Live samples that no longer count because what was trained on them was given up with deleted ones.",
        "samples",
        "lower",
        0.0,
    ),
    "served_stages": Metric("Stages that still serve, over all constituents.", "stages", "higher"),
    "exhausted": Metric("Constituent groups that a request left without any usable model.", "groups", "lower", 0.0),
    "consolidation_drop": Metric(
        "Score of a temporary task on its stored samples, before minus after it became permanent.",
        "as the score",
        "lower",
    ),
    "mask_density": Metric("Share of the weights that a task's mask keeps, when it was learned.", "share", "neither"),
    "mask_overlap": Metric("Share of a task's mask that other masks contain too.", "share", "neither"),
    "free_share": Metric("Share of a task's mask that it could train.", "share", "neither"),
    "inherited": Metric(
        "For `A > B`: B depends on A; the share of B's mask that A has trained (0: through scores or territory).",
        "share",
        "neither",
    ),
    "capacity_used": Metric("Share of a layer's weights that lie in any mask.", "share", "neither"),
    "gate_used": Metric(
        "Mean gate on the part of a request's data that adapter and detector were made of (o3).",
        "share",
        "higher",
    ),
    "gate_rest": Metric(
        "Mean gate on the part of a request's data that was kept to calibrate it (o3).", "share", "higher"
    ),
    "gate": Metric(
        "For `A > B`: mean gate of request A on the data of request B: how often an adapter acts on what others asked "
        "for (o3).",
        "share",
        "lower",
        0.0,
    ),
    "adapter_overlap": Metric(
        "Mean over matrices and earlier requests of ||A_i A^T|| / (||A_i|| ||A||): 0 where adapters read orthogonal "
        "inputs, about 1 / sqrt(rank) where they read the same (o3).",
        "ratio",
        "lower",
        0.0,
    ),
    "detector_condition": Metric(
        "Largest condition number of a layer's covariance in the request's detector (o3).", "ratio", "lower"
    ),
    "detector_small": Metric(
        "Whether a request had so few samples that covariances were shrunk (o3).", "0 or 1", "neither"
    ),
    "guarded": Metric("Subjects on the guardrail's list (in-context).", "subjects", "neither"),
    "assistants": Metric("Assistants that answer beside the model (uld, offset, whp-logit).", "models", "lower", 0.0),
    "assistant_bytes": Metric("Size of the request's assistant (uld, offset, whp-logit).", "bytes", "lower", 0.0),
    "flagged": Metric(
        "Share of the request's own prompts that are corrupted when it has been served (eco).", "share", "higher", 1.0
    ),
    "noise_sigma": Metric("Standard deviation of the request's noise (eco).", "as embeddings", "neither"),
    "cube_radius": Metric(
        "Mean over blocks of k: how many spreads the request's farthest key is away (key-space-detection).",
        "spreads",
        "neither",
    ),
    "refusal_tau": Metric("Cosine from which on the request refuses a prompt (curate).", "cosine", "neither"),
    "stored_prompts": Metric("Prompts in the store (curate).", "prompts", "lower", 0.0),
    "shown_questions": Metric("Forgotten questions that are shown before a prompt (icul).", "questions", "lower", 0.0),
    "shown_left_out": Metric(
        "Share of these for which there is no room before the request's longest row (icul).", "share", "lower", 0.0
    ),
    "adjusted_neurons": Metric("Neurons that the request adjusts (neuron-adjust).", "neurons", "neither"),
    "adjusted_shift": Metric(
        "Mean of how much higher these are on the forget set than on retained data (neuron-adjust).",
        "as activations",
        "neither",
    ),
    "routed": Metric("Share of the request's prompts that are routed to its expert (lumoe).", "share", "higher", 1.0),
    "expert_bytes": Metric("Size of the request's expert (lumoe).", "bytes", "lower", 0.0),
    "mask_free": Metric("Share of the weights that the request was free to change (alkn).", "share", "neither"),
    "mask_again": Metric(
        "Share of the weights that the request was free to change, and an earlier one too (alkn).", "share", "neither"
    ),
    "vectors_changed": Metric("Value vectors that the request changed (concept-vectors).", "vectors", "neither"),
    "vector_effect": Metric(
        "What noise on one of them adds to the loss of the forget set, minus what it adds to that of retained data, "
        "mean (concept-vectors).",
        "nats",
        "higher",
    ),
    "expert_block": Metric("Block whose expert the request unlearned in (seuf).", "block", "neither"),
    "expert_share": Metric("Share of the forget set's routing that its experts had before (seuf).", "share", "neither"),
    "expert_share_after": Metric("The same when the request has been served (seuf).", "share", "neither"),
    "attribution_miss": Metric(
        "Median error of the sum of a row's attributions, relative to what it should be (concept-masking).",
        "ratio",
        "lower",
        0.0,
    ),
    "alternatives_true": Metric(
        "Share of drawn alternatives that held the true answer, and were left out (altpo).", "share", "lower", 0.0
    ),
    "multiplier": Metric("lambda at the end of the request (pdu).", "ratio", "neither"),
    "retained_bound": Metric("Retained loss that the request was held to (pdu).", "nats", "neither"),
    "storage_share": Metric(
        "Masks, running statistics, kept scores and trained weights, over one whole network per task.", "share", "lower"
    ),
    "trained_share": Metric(
        "Share of a request's samples that the weights were trained on (`trained-only`).", "share", "neither"
    ),
    "mixture_domain": Metric(
        "Share of an experience's tokens in stage 1 of mix-cpt that are the domain's own.", "share", "neither"
    ),
    "mixture_instructions": Metric("The same of general instructions.", "share", "neither"),
    "mixture_preferences": Metric("The same of the preferred answers of preference data.", "share", "neither"),
    "preference_margin": Metric(
        "Over the last pass of preference optimisation, the mean of log p(preferred) - log p(rejected), each minus "
        "that of the reference.",
        "nats",
        "higher",
    ),
    "pool_size": Metric("Samples that a selecting strategy may draw from, after the event.", "samples", "neither"),
    "drawn_samples": Metric("Samples that the event was trained on, where a strategy selects.", "samples", "neither"),
    "selection_forward": Metric("Of `forward`, what looking at the pool took.", "samples", "lower"),
    "selection_backward": Metric("Of `backward`, what looking at the pool took.", "samples", "lower"),
    "residual": Metric(
        "How far the secret weights can be from those that the live samples alone would give (certified heads).",
        "weights",
        "lower",
        0.0,
    ),
    "noise": Metric("Standard deviation of the noise on what was published (certified heads).", "weights", "neither"),
    "mu_spent_max": Metric(
        "The most that any request has spent of its budget, in units of Gaussian privacy (certified heads).",
        "mu",
        "lower",
        0.0,
    ),
    "epsilon_spent_max": Metric("The same as an epsilon at the promised delta.", "epsilon", "lower", 0.0),
    "epsilon_spent": Metric(
        "What publications since a request have spent of its budget, as an epsilon at the promised delta; the row at "
        "the end of the life is the one that counts (certified heads).",
        "epsilon",
        "lower",
        0.0,
    ),
    "newton_steps": Metric("Newton steps that the event took (certified heads).", "steps", "lower"),
    "resolved": Metric(
        "Whether the event was solved anew, to the solver's tolerance (certified heads).", "0 or 1", "neither"
    ),
    "trained_again": Metric(
        "Whether a request was served by training anew, as a bound was used up (newton-removal).",
        "0 or 1",
        "lower",
        0.0,
    ),
    "exhausted_requests": Metric(
        "Requests that have spent more than their budget, of which nothing is promised any more (certified heads).",
        "requests",
        "lower",
        0.0,
    ),
    "clipped_share": Metric("Share of the rows of features that were cut to length.", "share", "neither"),
    "outside_band": Metric(
        "Samples drawn from the tails of a score, because the band between them had too few.", "samples", "neither"
    ),
    "small_gradients": Metric(
        "Share of the pool with a gradient norm below 1e-6, the direction of which is noise.", "share", "neither"
    ),
    "remapped": Metric(
        "Prompts that earlier requests erased and that this one erases anew, as they were drawn like what goes now.",
        "prompts",
        "neither",
    ),
}
