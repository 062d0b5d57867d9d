"""WAT files of Common Crawl: image links and their texts, ready for img2dataset."""
