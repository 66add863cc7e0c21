"""What a choice does to trained networks, measured with real trainings on real images: tables with intervals over seeds."""
