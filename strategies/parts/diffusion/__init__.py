"""What diffusion models share: noise schedules, samplers and prompts."""
