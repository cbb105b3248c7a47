"""Attribution graphs: which features, errors and tokens make which features and logits."""
