"""What moves information along a sequence: attention, SISA and the state-space mixers."""
