"""How long does an answer take? Checks answers before it times them."""
