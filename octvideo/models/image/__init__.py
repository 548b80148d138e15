"""The paper's image networks (Tables 1 to 5), and those inflated to video (Table 6)."""
