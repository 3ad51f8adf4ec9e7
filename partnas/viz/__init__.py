"""Pictures and pages: poses over images and in 3D, searched cells as graphs, reports on runs."""
