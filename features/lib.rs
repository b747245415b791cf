//! Empty: holds the features that the workspace shares (see its manifest).
