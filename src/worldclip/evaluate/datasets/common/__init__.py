"""Parts that all layouts share: images, text files, class names, language codes, and the builders of datasets."""
