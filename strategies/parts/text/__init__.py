"""Answers in text: refusals, wrong answers, chat templates."""
