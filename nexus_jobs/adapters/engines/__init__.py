"""The engines that run models."""
