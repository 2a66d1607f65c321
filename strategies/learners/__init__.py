"""Learner plugins (and whole learners): one file each."""
