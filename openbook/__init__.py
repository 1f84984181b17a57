"""openbook: answers from your own documents, with the evidence for every token."""
