"""Neurons from their synapses: consensus, and neurons that look wrongly labeled or merged."""
