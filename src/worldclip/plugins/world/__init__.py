"""The world pool: pictures with names and keywords in more than 200 languages, from what package registries carry.

Modules that read a part: openmoji, iconify (drawings); territories, emoji_names, cldr (texts); appstream, stamps,
gcompris (both).
"""
