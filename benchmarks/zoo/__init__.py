"""How wide the product is: models of many families, with random weights and often two layers deep.

What they give says that nothing is broken, and what runs where; how accurate a trained model is, it does not.
"""
