"""The world pool: pictures with names and keywords in more than 200 languages, from what package registries carry.

Modules that read a part: packages (drawings and texts); iconify (drawings); cldr (texts); appstream, stamps, gcompris
(both).
"""
