"""fastrnn as scikit-learn estimators (issue 6)."""
