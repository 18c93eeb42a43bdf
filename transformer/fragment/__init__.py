"""A small grammar of English and German sentences, and the corpus it writes."""
