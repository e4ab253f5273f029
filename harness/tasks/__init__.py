"""From a source of images to a task: splits, forget sets, lists of images."""
