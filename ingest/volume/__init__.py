"""The EM volume: its scales, boxes of samples in it, masks, and the readers that cut images."""
